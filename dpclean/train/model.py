"""A trained model as a folder: model.safetensors, model.json, and the ancestry of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.errors import InputError
from dpclean.small_files import check_regular_file
from dpclean.train.recipes import MOST_CLASSES, Edge, Recipe
from dpclean.train.trainer import Trainer, check_weights
from dpclean.versioned import read_versioned

NAME, WEIGHTS_NAME = "model.json", "model.safetensors"
FORMAT = 1


class TrainedOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training images. pixel_digest: see docs/formats.md; sigma and manifest: None without a manifest."""

    path: str  # relative to the model
    images: int
    images_by_class: dict[str, int]
    pixel_digest: str
    sigma: float | None
    manifest_sha256: str | None
    raw_pixel_digests: list[str]  # of all raw data that went in, weights begun from included


class ClassAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Right predictions among the test images of one class."""

    name: str
    images: int
    correct: int


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On test images. source: test, split or holdout. shared: how many of them occur in the training data."""

    source: str
    images: int
    correct: int
    shared: int
    per_class: list[ClassAccuracy]
    pixel_digest: str


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the images went through anew in every epoch. correct: right predictions among the test images of
    `Accuracy`, each noised and denoised once; None without test images.
    """

    sigma: float
    denoiser: str
    denoiser_digests: dict[str, str]
    method: str
    dtype: str
    correct: int | None


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What model.json says."""

    format: int
    tool: str
    classes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_CLASSES)]
    size: Edge  # edge of the images that the network takes
    recipe: Recipe
    recipe_sha256: str
    seed: int
    parameters: dict[str, Any]  # everything that decides the weights; the same command has the same
    data: TrainedOn
    accuracy: Accuracy | None
    certifiable: bool
    not_certifiable: list[str]  # why, one sentence each
    weights_sha256: str  # of model.safetensors
    host: dict[str, str]
    sigma_augment: Augmentation | None = None  # left out without


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, and what is known of it.

    network: takes (v - mean) / std, float32 [N, 3, size, size], of pixels v from 0 to 255.
    """

    name: str
    network: nn.Module
    size: int
    mean: Tensor  # [1, 3, 1, 1]
    std: Tensor
    weights_sha256: str
    ancestry: Ancestry


@dataclass(frozen=True)
class Model:
    """A model folder as it was found."""

    folder: Path
    description: Description
    weights: dict[str, Tensor]

    def ancestry(self) -> Ancestry:
        """What it was made of, as far as that is known. Raises InputError where the file is missing or damaged."""
        named = self.description.data.raw_pixel_digests
        return read_ancestry(self.folder / ANCESTRY_NAME) | Ancestry.of((), *named)

    def classifier(self) -> Classifier:
        """What `denoiser fit` takes."""
        trainer, told = self.trainer(torch.device("cpu")), self.description
        return Classifier(
            str(self.folder),
            trainer.network,
            told.size,
            trainer.mean,
            trainer.std,
            told.weights_sha256,
            self.ancestry(),
        )

    def trainer(self, device: torch.device) -> Trainer:
        """Ready to predict."""
        told = self.description
        trainer = Trainer(told.recipe, len(told.classes), size=told.size, device=device)
        trainer.load_state_dict(self.weights)
        return trainer


def dump(description: Description) -> bytes:
    """The description as indented JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"


def read_description(folder: Path) -> Description | None:
    """What model.json in a folder says, None where there is none. Raises ConflictError, InputError."""

    def parsed(fields: Any) -> Description:
        description = msgspec.convert(fields, Description)
        if description.recipe.size not in (None, description.size):
            raise ValueError(f"its size is {description.size}, that of its recipe {description.recipe.size}")
        if len(set(description.classes)) < len(description.classes):
            raise ValueError("it has a class twice")
        return description

    return read_versioned(folder / NAME, FORMAT, parsed, "describes no model", "restore the file, or train again")


def read_model(folder: Path) -> Model:
    """A model with its weights, checked against their digest. Raises InputError, ConflictError."""
    description = read_description(folder)
    if description is None:
        raise InputError(f"{str(folder)!r} holds no model: {NAME} is missing", "give what 'dpclean train' wrote")
    path = folder / WEIGHTS_NAME
    weights = read_weights(path)
    if file_sha256(path) != description.weights_sha256:
        raise InputError(f"{str(path)!r} is not the file that {NAME} speaks of", "restore it, or train again")
    check_weights(weights, description.recipe, len(description.classes))
    return Model(folder, description, weights)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises InputError."""
    try:
        check_regular_file(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}", "give a safetensors file of weights") from error


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over name, dtype, shape and bytes of each tensor, in order of the names."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].cpu().contiguous()
        whole.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        whole.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
