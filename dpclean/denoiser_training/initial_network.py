"""What a fit begins from: another denoiser, or a network with random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpclean.data.ancestry import Ancestry
from dpclean.denoise.loading import (
    DenoiserFiles,
    find_denoiser,
    load_network,
    load_schedule,
)
from dpclean.denoise.unet import UNet2DModel
from dpclean.denoiser_training.patches import Patches
from dpclean.denoiser_training.training import Recipe, Training
from dpclean.errors import UsageError
from dpclean.train.model import Classifier

if TYPE_CHECKING:
    import diffusers

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}
# the bundled one's: of those that benchmarks/denoiser_shapes.py compares it learns fastest
NETWORK: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "add_attention": False,
    "norm_num_groups": 16,
}


@dataclass(frozen=True)
class Start:
    """What a fit begins from: a denoiser, or the bundled one's network with random weights."""

    files: DenoiserFiles | None
    ancestry: Ancestry
    network: dict[str, Any]
    patch_size: int
    alphas_cumprod: np.ndarray
    scheduler: dict[str, Any]

    @classmethod
    def of(cls, init: str | None) -> Start:
        """Raises SetupError where init is missing, UsageError where it takes grey images only."""
        if init is None:
            betas = np.linspace(SCHEDULER["beta_start"], SCHEDULER["beta_end"], SCHEDULER["num_train_timesteps"])
            return cls(None, Ancestry(), NETWORK, NETWORK.get("patch_size", 1), np.cumprod(1 - betas), SCHEDULER)
        files = find_denoiser(init)
        alphas_cumprod, prediction_type, _ = load_schedule(files)
        network = json.loads(files.config.read_bytes())
        patch_size = network.get("patch_size", 1)
        if network.get("in_channels", 3) != 3 * patch_size**2:
            raise UsageError(f"denoiser {init!r} takes grey images only", "begin from one that takes 3 channels")
        scheduler = {**json.loads(files.scheduler.read_bytes()), "prediction_type": prediction_type}
        return cls(files, files.ancestry(), network, patch_size, alphas_cumprod, scheduler)

    def training(
        self, patches: Patches, recipe: Recipe, device: torch.device, classifier: Classifier | None = None
    ) -> Training:
        """Nothing done yet. The random first weights depend on the seed."""
        network: UNet2DModel | diffusers.UNet2DModel
        if self.files is not None:
            network = load_network(self.files)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                network = UNet2DModel(self.network)
        return Training(
            network.requires_grad_(True),
            patches,
            recipe,
            patch_size=self.patch_size,
            alphas_cumprod=self.alphas_cumprod,
            prediction_type=self.scheduler["prediction_type"],
            device=device,
            classifier=classifier,
        )
