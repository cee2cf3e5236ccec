"""A victim that learns all its weights from the images alone, by a recipe of `dpclean train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.victims.victim import Check, Classes, Pixels, Seen, Victim, never
from dpclean.data.ancestry import Ancestry
from dpclean.errors import InputError
from dpclean.train.extractor import Extractor, extractor_of
from dpclean.train.images import prepare
from dpclean.train.recipes import Recipe
from dpclean.train.trainer import Trainer

SCRATCH = "scratch"
Init = Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Network:
    """What a recipe has made: the weights, and the trainer that holds whichever were asked for last."""

    trainer: Trainer
    weights: dict[str, Tensor]

    def predict(self, points: Seen) -> Classes:
        """The class of each image uint8 [P,S,S,3]."""
        return np.asarray(self._loaded().predict(torch.from_numpy(points)), np.int64)

    def features(self, images: Seen) -> NDArray[np.float32]:
        """float32 [N,D] of images uint8 [N,S,S,3]."""
        return np.asarray(self._loaded().features(torch.from_numpy(images)), np.float32)

    def _loaded(self) -> Trainer:
        self.trainer.load_state_dict(self.weights)
        return self.trainer


class Training:
    """A recipe for so many classes, as a learner of images uint8 [N,S,S,3]. init: weights to begin with."""

    def __init__(self, recipe: Recipe, classes: int, size: int, device: torch.device, init: Init = None) -> None:
        self.recipe, self.init = recipe, init
        self.name = recipe.name
        self.about = f"all weights, from scratch, by the recipe {recipe.name!r} of 'dpclean train'"
        self._classes, self._size, self._device = classes, size, device

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self.recipe, self._classes, size=self._size, device=self._device, init=self.init)

    def fit(self, seen: Seen, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Network:
        images, wanted = torch.from_numpy(seen), torch.from_numpy(labels)
        self._trainer.fit(self.shown(images, seed), wanted, seed=seed, on_step=lambda done, steps: check())
        weights = {name: tensor.clone() for name, tensor in self._trainer.state_dict().items()}
        return Network(self._trainer, weights)

    def shown(self, images: Tensor, seed: int) -> Tensor | Callable[[int], Tensor]:
        """What of these a fit learns from: as they are, or what gives those of an epoch, from 1."""
        return images

    def epochs(self, images: int) -> int:
        """Of a fit on so many."""
        steps = math.ceil(images / self.recipe.batch_size)
        return max(self.recipe.epochs, math.ceil(self.recipe.least_steps / steps))


class Scratch(Victim):
    limit = (
        "The victim learns all its weights by one recipe. Another recipe, more images or a head on a frozen network is"
        " another matter."
    )

    def __init__(self, recipe: Recipe, classes: int, size: int, device: torch.device, init: Init = None) -> None:
        self.recipe, self.classes, self.size, self.device = recipe, classes, size, device
        self.about = f"a network that learns all its weights from the images, by the recipe {recipe.name}"
        self.training = Training(recipe, classes, size, device, init)
        self.learners = (self.training,)
        self.ancestry = Ancestry()

    def parameters(self) -> dict[str, Any]:
        return {"recipe": self.recipe.as_dict(), "size": self.size}

    def told(self) -> dict[str, str]:
        return {"recipe": self.recipe.name, "recipe_digest": self.recipe.digest()}

    def read(self, images: Pixels, check: Check = never) -> NDArray[np.uint8]:
        """uint8 [N,S,S,3]."""
        check()
        return prepare(images, self.size).numpy()

    def rows(self, seen: Seen, labels: Classes, classes: int, seed: int, check: Check) -> NDArray[np.float32]:
        return self.training.fit(seen, labels, classes, seed, check).features(seen)

    def network(self, images: Pixels, labels: Classes, classes: int, seed: int, check: Check) -> Extractor:
        weights = self.training.fit(self.read(images, check), labels, classes, seed, check).weights
        sized = replace(self.recipe, size=self.size)
        return extractor_of(self.recipe.name, sized, weights, self.ancestry, self.device, classes)

    def sketch(self) -> Victim:
        hasty = replace(self.recipe, epochs=1, least_steps=0)
        return Scratch(hasty, self.classes, self.size, self.device, self.training.init)

    def seconds(self, seen: Seen, labels: Classes, classes: int) -> float:
        sketch = self.sketch()
        (hasty,) = sketch.learners
        hasty.fit(seen[:8], labels[:8], classes)  # pays for what is set up once
        begun = time.monotonic()
        hasty.fit(seen, labels, classes)
        return (time.monotonic() - begun) * self.training.epochs(len(seen))


def common_size(images: Pixels, recipe: Recipe) -> int:
    """The edge that a recipe brings images to: its own, or theirs. Raises InputError where these are no squares of one
    size.
    """
    if recipe.size is not None:
        return recipe.size
    shapes = {image.shape[:2] for image in images}
    height, width = next(iter(shapes))
    if len(shapes) > 1 or height != width:
        raise InputError(
            f"the images are not squares of one size, and the victim {recipe.name!r} takes no others",
            f"give it a size to bring them to, as in --victim {recipe.name}@32",
        )
    return int(height)
