"""Recipes: small frozen configurations with a name; everything that changes the trained weights is in one."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from dpclean.errors import UsageError

if TYPE_CHECKING:  # naming recipes needs no numpy
    import numpy as np
    from numpy.typing import NDArray

TORCHVISION = "torchvision:"
LITE = "efficientnet-lite0"  # a network that is there as an extractor only
CIFAR_RESNETS = {"cifar-resnet20": 3, "cifar-resnet56": 9}  # extractors too; blocks a stage
MOST_EDGE, MOST_CLASSES = 1 << 12, 100_000
# of what a model is used by, as strangers may have written it
Width: TypeAlias = Annotated[int, Meta(ge=1, le=1024)]
Edge: TypeAlias = Annotated[int, Meta(ge=1, le=MOST_EDGE)]
Mean: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Deviation: TypeAlias = Annotated[float, Meta(ge=2**-10, le=2**10)]
MANY_IMAGES, LEAST_EDGE, LARGEST_EDGE = 2000, 8, 64  # from which, and in which, the default recipe is another one


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Pixels v (0..255) enter as (v / 255 - mean) / std; nothing is measured on raw data."""

    name: str
    network: str  # "residual", "resnet18", "torchvision:NAME", or LITE
    widths: Annotated[tuple[Width, ...], Meta(max_length=3)] = ()  # of "residual": channels of its three stages
    size: Edge | None = None  # images are brought to size x size; None: they are squares of one size already
    epochs: int = 10
    least_steps: int = 0  # small data sets get as many epochs as this takes
    batch_size: int = 500  # the most; batches are of equal size
    predict_batch: Annotated[int, Meta(ge=1, le=1024)] = (
        256  # padded, so that an image's prediction does not depend on the others
    )
    optimizer: str = "muon"  # "muon" for filters with SGD for the rest, or "sgd" for everything
    lr: float = 0.24  # of filters under "muon", else of everything; falls to 0 by schedule
    momentum: float = 0.6
    weight_decay: float = 0.0  # of "sgd"
    schedule: str = "linear"  # "linear" or "cosine"
    warmup: float = 0.0  # share of the steps over which the learning rate rises
    label_smoothing: float = 0.2
    average: float = 0.0  # decay a step of the exponential average of the weights; 0: the last weights count
    flip: str = "alternate"  # "alternate": every second epoch, "random", or "none"
    translate: int = 2  # pixels, at most, in each direction; the border is mirrored
    mirror: bool = True  # predictions average an image and its mirror image
    precision: Literal["bf16", "fp32"] = (
        "bf16"  # "bf16": products and convolutions in it where the device has it, or "fp32"
    )
    freeze: bool = False  # only the last layer learns
    mean: tuple[Mean, Mean, Mean] = (0.5, 0.5, 0.5)
    std: tuple[Deviation, Deviation, Deviation] = (0.25, 0.25, 0.25)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def digest(self) -> str:
        """SHA-256, hex, of the canonical JSON of as_dict."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_TINY = Recipe("tiny", "residual", (16, 32, 64), epochs=8, least_steps=60, batch_size=64, predict_batch=32)
_FAST = Recipe("fast", "residual", (64, 128, 256), epochs=8, least_steps=150)
_RESNET18 = Recipe(
    "resnet18",
    "resnet18",
    epochs=20,
    batch_size=128,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="cosine",
    label_smoothing=0.0,
    flip="random",
    translate=4,
    mirror=False,
)
_TORCHVISION = replace(
    _RESNET18,
    size=224,
    batch_size=64,
    predict_batch=64,
    lr=0.01,
    warmup=0.05,
    weight_decay=1e-4,
    label_smoothing=0.1,
    translate=16,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in (_TINY, _FAST, _RESNET18)})


def find_recipe(name: str) -> Recipe:
    """The recipe of a name, "torchvision:NAME" for any of its classifiers; "@S" behind it sets the image size.

    Raises UsageError, which lists what there is.
    """
    base = name.partition("@")[0]
    if base in RECIPES:
        recipe = RECIPES[base]
    elif base.startswith(TORCHVISION) and base.removeprefix(TORCHVISION) in classifiers():
        recipe = replace(_TORCHVISION, name=base, network=base)
    else:
        known = ", ".join([*RECIPES, f"{TORCHVISION}NAME"])
        raise UsageError(f"recipe {base!r} is not known", f"give one of {known}; for example torchvision:resnet50@224")
    return sized(recipe, name)


def sized(recipe: Recipe, name: str) -> Recipe:
    """The recipe under its full name, with the size that an "@S" in it sets. Raises UsageError."""
    base, at, size = name.partition("@")
    if not at:
        return recipe
    if not re.fullmatch("[0-9]{1,4}", size) or not LEAST_EDGE <= int(size) <= 1024:
        raise UsageError(f"recipe {name!r} has no size from 8 to 1024 behind its @", f"give for example {base}@32")
    return replace(recipe, name=name, size=int(size))


def default_recipe(pixels: Sequence[NDArray[np.uint8]]) -> Recipe:
    """The recipe for images [H,W,C] where none is named: a function of their number and sizes alone.

    The size is that of more than half of them, where they are small squares: a few others are brought to it, as one
    image must not decide what becomes of all.
    """
    name = "tiny" if len(pixels) < MANY_IMAGES else "fast"
    shapes = Counter(image.shape[:2] for image in pixels)
    ((height, width), count), *others = shapes.most_common()
    if height != width or not LEAST_EDGE <= height <= LARGEST_EDGE or 2 * count <= len(pixels):
        height = 32 if name == "tiny" else 64
    elif not others:
        return find_recipe(name)
    return find_recipe(f"{name}@{height}")


def classifiers() -> frozenset[str]:
    """The names of torchvision's."""
    from torchvision import models

    return frozenset(models.list_models(module=models))
