"""From an id or a folder in the diffusers layout to a network and its schedule."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dpclean.data.ancestry import Ancestry, ancestry_in
from dpclean.denoise import hub
from dpclean.errors import SetupError
from dpclean.given import given_path
from dpclean.jobs.manifest import ANCESTRY_NAME

if TYPE_CHECKING:
    import diffusers
    import numpy as np
    from torch import Tensor

    from dpclean.denoise.unet import UNet2DModel

BUNDLED = {name: Path(__file__).with_name(name) for name in ("natural", "perceptual")}
WEIGHTS = "diffusion_pytorch_model.safetensors"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
FILES = ("config.json", WEIGHTS, ANCESTRY_NAME, *SCHEDULERS)
HUB_FILES = [folder + file for folder in ("", "unet/") for file in FILES]
LARGEST_CONFIG = 1 << 20
PATCH_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class DenoiserFiles:
    """The files of one denoiser: what is read, and nothing else is."""

    id: str
    config: Path
    weights: Path
    scheduler: Path

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by role."""
        return {role: _sha256(path) for role, path in self._roles().items()}

    def ancestry(self) -> Ancestry:
        """What it was made of, as far as its folder tells. Raises InputError where that is damaged."""
        return ancestry_in(self.config.parent, f"nothing tells what the denoiser {self.id!r} was made of")

    def _roles(self) -> dict[str, Path]:
        return {"config": self.config, "weights": self.weights, "scheduler": self.scheduler}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_denoiser(name: str) -> DenoiserFiles:
    """The files of a bundled denoiser, a local folder, or a hub id.

    A folder holds config.json and the weights as safetensors, itself or in `unet/`; the scheduler's
    configuration lies in `scheduler/` beside them or one folder above. A hub id stands for what the local cache has
    of it; only where that is not enough, and a network is allowed, is it fetched.
    Raises SetupError where something is missing. A pickle is never opened.
    """
    if name in BUNDLED:
        return _find_in_folder(name, BUNDLED[name])
    folder = given_path(name)
    if folder.is_dir():
        return _find_in_folder(str(folder), folder)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _find_on_hub(name)
    raise SetupError(
        f"denoiser {name!r} is neither bundled ({', '.join(BUNDLED)}) nor a folder nor a hub id",
        "check --denoiser, or leave it out for natural",
    )


def _find_in_folder(name: str, folder: Path) -> DenoiserFiles:
    root = folder if (folder / "config.json").is_file() else folder / "unet"
    config, weights = root / "config.json", root / WEIGHTS
    if not config.is_file():
        raise SetupError(f"denoiser {name!r} has no config.json", "give a folder in the diffusers layout")
    if not weights.is_file():
        pickles = sorted(p.name for p in root.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
        found = f"only {pickles[0]}, a pickle, which can run code and is never opened" if pickles else "no weights"
        raise SetupError(f"denoiser {name!r} has {found}", f"save it again with safe_serialization=True, as {WEIGHTS}")
    for base in (root, root.parent):
        for scheduler in (base / place for place in SCHEDULERS):
            if scheduler.is_file():
                return DenoiserFiles(name, config, weights, scheduler)
    raise SetupError(
        f"denoiser {name!r} has no scheduler/scheduler_config.json, beside it or above it",
        "add the scheduler configuration that the model was trained with",
    )


def _find_on_hub(name: str) -> DenoiserFiles:
    folder = hub.cached(name, HUB_FILES)
    if folder is not None:
        with contextlib.suppress(SetupError):  # the cache need not have all of it
            return _find_in_folder(name, folder)
    return _find_in_folder(name, hub.fetched(name, HUB_FILES))


def _read_config(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_CONFIG:
        raise SetupError(f"denoiser {name!r}: {path.name} is larger than 1 MiB", "give a diffusers configuration")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise SetupError(f"denoiser {name!r}: {path.name} is not JSON: {error}", "repair or replace it") from error
    if not isinstance(config, dict):
        raise SetupError(f"denoiser {name!r}: {path.name} is not a JSON object", "repair or replace it")
    return config


def load_schedule(files: DenoiserFiles) -> tuple[np.ndarray, str]:
    """(alphas_cumprod float64 [T], prediction type) of a denoiser's scheduler."""
    config = _read_config(files.scheduler, files.id)
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise SetupError(
            f"denoiser {files.id!r} predicts {prediction_type!r}",
            f"dpclean knows {', '.join(PREDICTION_TYPES)}",
        )
    alphas_cumprod = _usual_alphas_cumprod(config)
    if alphas_cumprod is None:
        alphas_cumprod = _alphas_cumprod_of_its_class(config)
    if alphas_cumprod is None:
        raise SetupError(
            f"denoiser {files.id!r}: scheduler {config.get('_class_name')!r} has no alphas_cumprod",
            "give a denoiser with a variance-preserving schedule (DDPM, DDIM, DPM-Solver, ...)",
        )
    return alphas_cumprod.double().numpy(), prediction_type


def _usual_alphas_cumprod(config: dict[str, Any]) -> Tensor | None:
    """The two schedules that nearly all denoisers have, without importing diffusers; None for all others."""
    import torch

    power = {"linear": 1.0, "scaled_linear": 0.5}.get(config.get("beta_schedule", "linear"))
    special = config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr")
    if config.get("_class_name") not in ("DDPMScheduler", "DDIMScheduler") or power is None or special:
        return None
    start, end = (float(config.get(name, value)) ** power for name, value in (("beta_start", 1e-4), ("beta_end", 0.02)))
    betas = torch.linspace(start, end, int(config.get("num_train_timesteps", 1000)), dtype=torch.float32) ** (1 / power)
    return torch.cumprod(1.0 - betas, dim=0)


def _alphas_cumprod_of_its_class(config: dict[str, Any]) -> Tensor | None:
    import diffusers

    name = str(config.get("_class_name"))
    found = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        return None
    scheduler: Any = cast(Any, found).from_config(config)
    alphas_cumprod: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    return alphas_cumprod


def load_network(files: DenoiserFiles) -> UNet2DModel | diffusers.UNet2DModel:
    """The UNet2DModel of a denoiser in float32, in evaluation mode. Runs no code from the folder."""
    from safetensors import SafetensorError

    from dpclean.denoise import unet

    config = _read_config(files.config, files.id)
    _check_config(files.id, config)
    own = unet.supports(config)
    if not own:
        import_diffusers()
    try:
        network = _own_network(files, config) if own else load_through_diffusers(files)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise SetupError(
            f"denoiser {files.id!r} cannot be loaded: {str(error).strip().splitlines()[0]}",
            "its weights and its config.json must belong together",
        ) from error
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            raise SetupError(f"denoiser {files.id!r}: {name} is not finite", "its weights are damaged")
    network.eval().requires_grad_(False)
    return network


def _check_config(name: str, config: dict[str, Any]) -> None:
    """Raise SetupError for what is no unconditional UNet2DModel of one or three channels, whole or in patches."""
    if config.get("_class_name") != "UNet2DModel":
        raise SetupError(f"denoiser {name!r} is a {config.get('_class_name')!r}", "give an unconditional UNet2DModel")
    patch_size = config.get("patch_size", 1)
    if not (isinstance(patch_size, int) and patch_size in PATCH_SIZES):
        raise SetupError(f"denoiser {name!r} has patch_size {patch_size!r}", "it must be 1, 2, 4 or 8")
    sizes = config.get("sample_size") or 1
    if not all(isinstance(size, int) and size > 0 for size in (sizes if isinstance(sizes, list) else [sizes])):
        raise SetupError(f"denoiser {name!r} has sample_size {sizes!r}", "it must be an edge in pixels, or two")
    if config.get("in_channels", 3) not in (patch_size**2, 3 * patch_size**2):
        raise SetupError(
            f"denoiser {name!r} takes {config.get('in_channels', 3)} channels in patches of {patch_size}",
            "give one that takes 1 or 3 channels, times the square of its patch_size",
        )
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        raise SetupError(f"denoiser {name!r} wants class labels", "give an unconditional UNet2DModel")
    if config.get("time_embedding_type", "positional") == "fourier":
        raise SetupError(f"denoiser {name!r} is made for a variance-exploding process", "give a DDPM-like UNet2DModel")


def _own_network(files: DenoiserFiles, config: dict[str, Any]) -> UNet2DModel:
    from safetensors.torch import load_file

    from dpclean.denoise.unet import UNet2DModel

    return UNet2DModel.from_state(config, load_file(files.weights))


def import_diffusers() -> None:
    """Import what is slow to import, and fails where torch and torchvision do not belong together."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    importlib.import_module("diffusers.models.unets.unet_2d")


def load_through_diffusers(files: DenoiserFiles) -> diffusers.UNet2DModel:
    """The UNet2DModel of a denoiser as diffusers itself loads it, in float32."""
    import_diffusers()
    from diffusers.models.unets.unet_2d import UNet2DModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: diffusers.UNet2DModel = UNet2DModel.from_pretrained(
            files.config.parent, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    return network.float()
