"""Weights to begin from: a dpclean model, a safetensors file, or torchvision's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dpclean.data.ancestry import Ancestry, ancestry_in
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.jobs.checks import given_path
from dpclean.train.model import (
    NAME,
    WEIGHTS_NAME,
    Description,
    Model,
    file_sha256,
    read_description,
    read_model,
    read_weights,
    weights_digest,
)
from dpclean.train.recipes import TORCHVISION, Recipe


@dataclass(frozen=True)
class Init:
    """Weights, and what is known of where they come from."""

    weights: dict[str, Tensor]
    source: str  # "model", "file" or "torchvision:WEIGHTS"
    digest: str  # weights_digest
    ancestry: Ancestry
    not_certifiable: tuple[str, ...] = ()  # why no certificate can rest on them, as their model.json says


def find_init(name: str, recipe: Recipe) -> Init:
    """The weights that --init names: a folder that `train` wrote, FILE.safetensors, "torchvision" for the best weights
    of the recipe's network, or "torchvision:WEIGHTS" for others of it (fetched where they are not there yet).

    A file is read with what lies beside it: of a model, or of kept models, that says where the file comes from.
    Raises UsageError, InputError, SetupError. Whether they fit the network, Trainer says.
    """
    if _is_torchvision(name):
        return _from_torchvision(name.partition(":")[2] or "DEFAULT", recipe)
    path = given_path(name).resolve()
    if (path / NAME).exists():
        return _from_model(read_model(path))
    if not path.is_file():
        raise InputError(
            f"init {name!r} is neither a model nor a file",
            "give a folder that 'dpclean train' wrote, FILE.safetensors, or torchvision",
        )
    described = read_description(path.parent)
    if described is not None and path.name == WEIGHTS_NAME:
        return _from_model(read_model(path.parent))
    return _from_file(path, described)


def described_init(name: str) -> Description | None:
    """What is said of the model that --init names by its folder or by a file in it; None where there is no such."""
    if _is_torchvision(name):
        return None
    path = given_path(name).resolve()
    return read_description(path if path.is_dir() else path.parent)


def _is_torchvision(name: str) -> bool:
    return name == "torchvision" or name.startswith(TORCHVISION)


def _from_model(model: Model) -> Init:
    reasons = tuple(model.description.not_certifiable)
    return Init(model.weights, "model", weights_digest(model.weights), model.ancestry(), reasons)


def _from_file(path: Path, described: Description | None) -> Init:
    """A file of weights; a model.json beside it may be that of other weights, but nothing says so."""
    weights = read_weights(path)
    ancestry = ancestry_in(path.parent, f"nothing tells what the weights {path.name!r} were made of")
    reasons: tuple[str, ...] = ()
    if described is not None:
        reasons = tuple(described.not_certifiable)
        ancestry |= Ancestry.of((), *described.data.raw_pixel_digests)
        if file_sha256(path) != described.weights_sha256:
            ancestry |= Ancestry.unknown(f"the weights {path.name!r} are not those that the {NAME} beside them means")
    return Init(weights, "file", weights_digest(weights), ancestry, reasons)


def _from_torchvision(choice: str, recipe: Recipe) -> Init:
    from torchvision import models

    if not recipe.network.startswith(TORCHVISION):
        raise UsageError(
            f"torchvision has no weights for the network of recipe {recipe.name}", "use a recipe torchvision:NAME"
        )
    known = models.get_model_weights(recipe.network.removeprefix(TORCHVISION))
    if choice not in known.__members__:
        names = ", ".join(known.__members__)
        raise UsageError(f"{recipe.network} has no weights {choice!r}", f"give one of: {names}")
    try:
        weights = known[choice].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a download that is not what it should be
        raise SetupError(
            f"the weights {choice!r} of {recipe.network} cannot be fetched: {error}",
            "fetch them where a network is allowed, and give them as FILE.safetensors",
        ) from error
    gap = f"nothing tells image by image what the weights {choice} of {recipe.network} were made of"
    return Init(weights, f"{TORCHVISION}{choice}", weights_digest(weights), Ancestry.unknown(gap))
