"""Weights to begin from: a dpclean model, a safetensors file, or torchvision's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dpclean.errors import InputError, SetupError, UsageError
from dpclean.jobs.manifest import ANCESTRY_NAME
from dpclean.train.model import NAME, Model, read_model, read_weights, weights_digest
from dpclean.train.recipes import TORCHVISION, Recipe


@dataclass(frozen=True)
class Init:
    """Weights, and what is known of where they come from."""

    weights: dict[str, Tensor]
    source: str  # "model", "file" or "torchvision:WEIGHTS"
    digest: str  # weights_digest
    model: Model | None  # where dpclean made them
    ancestry: Path | None  # the file with 8 bytes of the pixel hash of each raw image that went in; None: unknown


def find_init(name: str, recipe: Recipe) -> Init:
    """The weights that --init names: a folder that `train` wrote, FILE.safetensors, "torchvision" for the best weights
    of the recipe's network, or "torchvision:WEIGHTS" for others of it (fetched where they are not there yet).

    Raises UsageError, InputError, SetupError. Whether they fit the network, Trainer says.
    """
    if name == "torchvision" or name.startswith(TORCHVISION):
        return _from_torchvision(name.partition(":")[2] or "DEFAULT", recipe)
    path = Path(name).expanduser()
    if (path / NAME).exists():
        model = read_model(path)
        return Init(model.weights, "model", weights_digest(model.weights), model, model.ancestry)
    if not path.is_file():
        raise InputError(
            f"init {name!r} is neither a model nor a file",
            "give a folder that 'dpclean train' wrote, FILE.safetensors, or torchvision",
        )
    weights = read_weights(path)
    ancestry = path.with_name(ANCESTRY_NAME)
    return Init(weights, "file", weights_digest(weights), None, ancestry if ancestry.is_file() else None)


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
    return Init(weights, f"{TORCHVISION}{choice}", weights_digest(weights), None, None)
