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
from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.denoise import hub
from dpclean.denoise.schedule import Schedule
from dpclean.errors import SetupError
from dpclean.jobs.checks import given_path

if TYPE_CHECKING:
    import diffusers
    from torch import Tensor

    from dpclean.denoise.unet import UNet2DModel

BUNDLED = {name: Path(__file__).with_name(name) for name in ("natural", "perceptual")}
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
FILES = ("config.json", WEIGHTS, ANCESTRY_NAME, *SCHEDULERS)
SHARDS = "diffusion_pytorch_model-*-of-*.safetensors"
HUB_FILES = [folder + file for folder in ("", "unet/") for file in (*FILES, INDEX, SHARDS)]
LARGEST_CONFIG = 1 << 20
PATCH_SIZES = (1, 2, 4, 8)
MOST_TIMESTEPS, LARGEST_NUMBER, LONGEST_LIST = 1_000_000, 1 << 16, 64  # beyond any denoiser; memory depends on them


@dataclass(frozen=True)
class DenoiserFiles:
    """The files of one denoiser: what is read, and nothing else is. weights: a file, or the index of its shards. role:
    what messages call it, as networks that make images lie in folders of the same layout.
    """

    id: str
    config: Path
    weights: Path
    scheduler: Path
    shards: tuple[Path, ...] = ()
    role: str = "denoiser"

    @property
    def told(self) -> str:
        """What messages call it."""
        return f"{self.role} {self.id!r}"

    @property
    def variant(self) -> str | None:
        """diffusers' word for weights of another name, such as fp16."""
        rest = self.weights.name.removesuffix(".json").removesuffix(".safetensors")
        word = rest.removeprefix(INDEX.removesuffix(".json")).removeprefix(WEIGHTS.removesuffix(".safetensors"))
        return word.strip(".") or None

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by role."""
        return {role: _sha256(path) for role, path in self._roles().items()}

    @property
    def channels(self) -> int:
        """Of the images that it takes: 3, or 1 where these are grey. Raises SetupError."""
        config = _read_config(self.config, self.told)
        patch_size = config.get("patch_size", 1)
        return 1 if isinstance(patch_size, int) and config.get("in_channels", 3) == patch_size**2 else 3

    def ancestry(self) -> Ancestry:
        """What it was made of, as far as its folder tells. Raises InputError where that is damaged."""
        return ancestry_in(self.config.parent, f"nothing tells what the denoiser {self.id!r} was made of")

    def _roles(self) -> dict[str, Path]:
        roles = {"config": self.config, "weights": self.weights, "scheduler": self.scheduler}
        return roles | {f"weights {shard.name}": shard for shard in self.shards}


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
        return find_in_folder(name, BUNDLED[name])
    folder = given_path(name)
    if folder.is_dir():
        return find_in_folder(str(folder), folder)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _find_on_hub(name)
    raise SetupError(
        f"denoiser {name!r} is neither bundled ({', '.join(BUNDLED)}) nor a folder nor a hub id",
        "check --denoiser, or leave it out for natural",
    )


def find_in_folder(name: str, folder: Path, role: str = "denoiser") -> DenoiserFiles:
    """The files in a folder, as `find_denoiser` looks for them. role: what messages call it. Raises SetupError."""
    told = f"{role} {name!r}"
    root = folder if (folder / "config.json").is_file() else folder / "unet"
    config, weights = root / "config.json", _weights_in(root)
    if not config.is_file():
        raise SetupError(f"{told} has no config.json", "give a folder in the diffusers layout")
    if weights is None:
        pickles = sorted(p.name for p in root.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
        found = f"only {pickles[0]}, a pickle, which can run code and is never opened" if pickles else "no weights"
        raise SetupError(f"{told} has {found}", f"save it again with safe_serialization=True, as {WEIGHTS}")
    shards = _shards_of(weights, told) if weights.suffix == ".json" else ()
    for base in (root, root.parent):
        for scheduler in (base / place for place in SCHEDULERS):
            if scheduler.is_file():
                return DenoiserFiles(name, config, weights, scheduler, shards, role)
    raise SetupError(
        f"{told} has no scheduler/scheduler_config.json, beside it or above it",
        "add the scheduler configuration that the model was trained with",
    )


def _weights_in(root: Path) -> Path | None:
    """The weights in diffusers' names, whole or an index of shards; a variant such as fp16 if there are no others."""
    variants = sorted(path for path in root.glob(WEIGHTS.replace(".", ".*.")) if "-of-" not in path.name)
    whole = [root / WEIGHTS, *variants]
    indices = [root / INDEX, *sorted(root.glob(INDEX.replace(".json", ".*.json")))]
    return next((path for path in (whole[0], indices[0], *whole[1:], *indices[1:]) if path.is_file()), None)


def _shards_of(index: Path, told: str) -> tuple[Path, ...]:
    """The files that an index names. Raises SetupError where one is missing, or lies elsewhere."""
    places = _read_config(index, told).get("weight_map")
    files = sorted({str(file) for file in places.values()}) if isinstance(places, dict) else []
    for file in files or ["nothing"]:
        if Path(file).name != file or not file.endswith(".safetensors") or not (index.parent / file).is_file():
            raise SetupError(f"{told}: {index.name} names {file!r}, which is not there", "add what is missing")
    return tuple(index.parent / file for file in files)


def _find_on_hub(name: str) -> DenoiserFiles:
    folder = hub.cached(name, HUB_FILES)
    if folder is not None:
        with contextlib.suppress(SetupError):  # the cache need not have all of it
            return find_in_folder(name, folder)
    return find_in_folder(name, hub.fetched(name, HUB_FILES))


def _read_config(path: Path, told: str) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_CONFIG:
        raise SetupError(f"{told}: {path.name} is larger than 1 MiB", "give a diffusers configuration")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{told}: {path.name} is not JSON: {error}", "repair or replace it") from error
    if not isinstance(config, dict):
        raise SetupError(f"{told}: {path.name} is not a JSON object", "repair or replace it")
    return config


def load_schedule(files: DenoiserFiles) -> Schedule:
    """Raises SetupError for what is none."""
    import numpy as np

    config = _read_config(files.scheduler, files.told)
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise SetupError(
            f"{files.told} predicts {prediction_type!r}",
            f"dpclean knows {', '.join(PREDICTION_TYPES)}",
        )
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MOST_TIMESTEPS:
        raise SetupError(f"{files.told}: num_train_timesteps is {_short(steps)}", f"it is from 1 to {MOST_TIMESTEPS}")
    try:
        found = _usual_alphas_cumprod(config)
        if found is None:
            found = _alphas_cumprod_of_its_class(config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, NotImplementedError) as error:
        raise SetupError(
            f"{files.told}: its schedule cannot be made: {_told(error)}",
            "repair its scheduler_config.json",
        ) from error
    if found is None:
        raise SetupError(
            f"{files.told}: scheduler {config.get('_class_name')!r} has no alphas_cumprod",
            "give a denoiser with a variance-preserving schedule (DDPM, DDIM, DPM-Solver, ...)",
        )
    alphas_cumprod = found.double().numpy()
    usable = alphas_cumprod.ndim == 1 and alphas_cumprod.size > 0 and bool(np.isfinite(alphas_cumprod).all())
    if not usable or alphas_cumprod[0] >= 1 or alphas_cumprod[-1] < 0 or (np.diff(alphas_cumprod) > 0).any():
        raise SetupError(
            f"{files.told}: its alphas_cumprod do not fall from below 1 towards 0",
            "repair its scheduler_config.json: betas lie between 0 and 1",
        )
    return Schedule(alphas_cumprod, prediction_type, str(config.get("variance_type", "fixed_small")))


def _told(error: BaseException) -> str:
    """What a library says, on one line: the first may be a heading alone."""
    return _short(" ".join(str(error).split()) or type(error).__name__, 300)


def _short(value: object, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


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


def load_network(files: DenoiserFiles, classes: int = 0) -> UNet2DModel | diffusers.UNet2DModel:
    """The UNet2DModel of a denoiser in float32, in evaluation mode; with classes, one that takes labels of so many.
    Runs no code from the folder. Raises SetupError.
    """
    from safetensors import SafetensorError

    from dpclean.denoise import unet

    config = _read_config(files.config, files.told)
    _check_config(files.told, config, classes)
    try:
        if unet.supports(config):
            network = _own_network(files, config)
        else:
            import_diffusers()
            network = load_through_diffusers(files)
    except ImportError:
        raise
    except (
        OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
        NotImplementedError, SafetensorError,
    ) as error:  # fmt: skip
        raise SetupError(
            f"{files.told} cannot be loaded: {_told(error)}",
            "its weights and its config.json must belong together",
        ) from error
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            raise SetupError(f"{files.told}: {name} is not finite", "its weights are damaged")
    network.eval().requires_grad_(False)
    return network


def _check_config(told: str, config: dict[str, Any], classes: int) -> None:
    """Raise SetupError for what is no UNet2DModel of one or three channels, whole or in patches, without labels or with
    those of so many classes.
    """
    wanted = "give a class-conditional UNet2DModel" if classes else "give an unconditional UNet2DModel"
    if config.get("_class_name") != "UNet2DModel":
        raise SetupError(f"{told} is a {config.get('_class_name')!r}", wanted)
    _check_numbers(told, config)
    patch_size = config.get("patch_size", 1)
    if not (isinstance(patch_size, int) and patch_size in PATCH_SIZES):
        raise SetupError(f"{told} has patch_size {patch_size!r}", "it must be 1, 2, 4 or 8")
    sizes = config.get("sample_size") or 1
    if not all(isinstance(size, int) and size > 0 for size in (sizes if isinstance(sizes, list) else [sizes])):
        raise SetupError(f"{told} has sample_size {sizes!r}", "it must be an edge in pixels, or two")
    if config.get("in_channels", 3) not in (patch_size**2, 3 * patch_size**2):
        raise SetupError(
            f"{told} takes {config.get('in_channels', 3)} channels in patches of {patch_size}",
            "give one that takes 1 or 3 channels, times the square of its patch_size",
        )
    known, kind = config.get("num_class_embeds"), config.get("class_embed_type")
    if not classes and (known or kind):
        raise SetupError(f"{told} wants class labels", wanted)
    if classes and (kind or not known):
        raise SetupError(f"{told} takes no class labels", f"{wanted}, with num_class_embeds")
    if classes and known != classes:
        raise SetupError(
            f"{told} knows {_short(known)} classes (num_class_embeds), and there are {classes}",
            "give one that was trained on these classes, numbered in the order of their names",
        )
    if config.get("time_embedding_type", "positional") == "fourier":
        raise SetupError(f"{told} is made for a variance-exploding process", "give a DDPM-like UNet2DModel")
    if config.get("time_embedding_type") == "learned":
        raise SetupError(
            f"{told} knows whole timesteps only, and a noise level lies between two of them",
            "give one with time_embedding_type positional",
        )


def _check_numbers(told: str, config: dict[str, Any]) -> None:
    """Raise SetupError for values that no network is made of: nested, negative, or beyond all memory."""
    for key, value in config.items():
        values = value if isinstance(value, list) else [value]
        plain = len(values) <= LONGEST_LIST and all(v is None or isinstance(v, (bool, int, float, str)) for v in values)
        numbers = [v for v in values if isinstance(v, (int, float))] if plain else []
        if key.startswith("_") or (plain and all(0 <= number <= LARGEST_NUMBER for number in numbers)):
            continue
        raise SetupError(
            f"{told}: {_short(key)} is {_short(value)}",
            f"it must be a number from 0 to {LARGEST_NUMBER}, a word, or a short list of them",
        )


def _own_network(files: DenoiserFiles, config: dict[str, Any]) -> UNet2DModel:
    from safetensors.torch import load_file

    from dpclean.denoise.unet import UNet2DModel

    state: dict[str, Tensor] = {}
    for path in files.shards or (files.weights,):
        state |= load_file(path)
    return UNet2DModel.from_state(config, state)


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
            files.config.parent,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            variant=files.variant,
        )
    return network.float()
