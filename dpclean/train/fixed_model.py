"""A classifier that is used as it is: what `train` wrote, or a torchvision model with a file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpclean.data.ancestry import Ancestry, ancestry_in
from dpclean.errors import InputError, UsageError
from dpclean.jobs.checks import given_path
from dpclean.train.model import NAME, WEIGHTS_NAME, file_sha256, read_model, read_weights
from dpclean.train.networks import head, outline
from dpclean.train.recipes import TORCHVISION, Recipe, find_recipe
from dpclean.train.trainer import Trainer


@dataclass(frozen=True)
class FixedModel:
    """classes: their names, None where nothing tells them; outputs: how many. digest: SHA-256 of the file of weights.

    recipe: how it takes images, of an edge of size; None in recipe.size: as they are. sigma_augment: the noise that its
    training images got anew in every epoch, None without or where nothing tells.
    """

    id: str
    digest: str
    classes: tuple[str, ...] | None
    outputs: int
    recipe: Recipe
    size: int
    ancestry: Ancestry
    weights: dict[str, Tensor]
    sigma_augment: float | None = None

    def trainer(self, device: torch.device) -> Trainer:
        """Ready to predict. Raises InputError where the weights do not fit the network."""
        trainer = Trainer(self.recipe, self.outputs, size=self.size, device=device)
        trainer.load_state_dict(self.weights)
        return trainer


def find_model(source: str, weights: Path | None = None) -> FixedModel:
    """What --model names: a folder that `train` wrote or the weights in it, or "torchvision:NAME" with --weights; "@S"
    behind a name sets the edge of the images. Raises UsageError, InputError.
    """
    named = source.startswith(TORCHVISION)
    if named != (weights is not None):
        raise UsageError(
            f"the model {source!r} needs --weights" if named else f"the model {source!r} brings its own weights",
            "give --weights FILE.safetensors" if named else "leave --weights out",
        )
    if weights is not None:
        return _from_torchvision(source, given_path(weights).resolve())
    path = given_path(source).resolve()
    folder = path.parent if path.name == WEIGHTS_NAME and path.is_file() else path
    if not (folder / NAME).exists():
        raise InputError(
            f"{source!r} is no model", f"give a folder that 'dpclean train' wrote, or {TORCHVISION}NAME with --weights"
        )
    model = read_model(folder)
    told = model.description
    return FixedModel(
        id=source,
        digest=told.weights_sha256,
        classes=tuple(told.classes),
        outputs=len(told.classes),
        recipe=told.recipe,
        size=told.size,
        ancestry=model.ancestry(),
        weights=model.weights,
        sigma_augment=told.sigma_augment.sigma if told.sigma_augment else None,
    )


def _from_torchvision(source: str, path: Path) -> FixedModel:
    recipe, weights = find_recipe(source), read_weights(path)
    assert recipe.size is not None
    return FixedModel(
        id=source,
        digest=file_sha256(path),
        classes=None,
        outputs=_outputs(recipe, weights, path),
        recipe=recipe,
        size=recipe.size,
        ancestry=ancestry_in(path.parent, f"nothing tells what the weights {path.name!r} were made of"),
        weights=weights,
    )


def _outputs(recipe: Recipe, weights: dict[str, Tensor], path: Path) -> int:
    """How many classes weights are for: what comes out of the last layer."""
    network = outline(recipe, 2)
    last = head(network)
    name = next(name for name, module in network.named_modules() if module is last)
    if f"{name}.weight" not in weights:
        raise InputError(
            f"{str(path)!r} has no {name}.weight, the last layer of {recipe.network!r}", "give weights of this network"
        )
    return int(weights[f"{name}.weight"].shape[0])
