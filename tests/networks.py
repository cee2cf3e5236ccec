"""Small random networks in the diffusers layout, made once a test run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SMALL = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "add_attention": False,
    "norm_num_groups": 4,
}
PATCHES = {"in_channels": 12, "out_channels": 12, "patch_size": 2}


def make_denoiser(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    prepare: Callable[[Any], None] | None = None,
    patch_size: int = 1,
    **config: Any,
) -> Path:
    """A folder with a random UNet2DModel; prepare(model) may change its weights first."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(**{**SMALL, **config})
    if patch_size != 1:
        model.register_to_config(patch_size=patch_size)
    if prepare is not None:
        with torch.no_grad():
            prepare(model)
    model.save_pretrained(folder)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "prediction_type": prediction_type}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def make_transparent(folder: Path, **config: Any) -> Path:
    """A denoiser that predicts no noise at all: in float32 its output is the noised image, clipped to 0..255."""

    def silence(model: Any) -> None:
        model.conv_out.weight.zero_()
        model.conv_out.bias.zero_()

    return make_denoiser(folder, prepare=silence, **config)
