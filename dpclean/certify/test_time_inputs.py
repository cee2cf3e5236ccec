"""What is certified where test images may be changed: the images, and the model and denoiser that see them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from dpclean.certify.data import read_checked
from dpclean.certify.options import CertifyOptions
from dpclean.data.ancestry import Ancestry
from dpclean.data.dataset import (
    Images,
    match_labels,
    of_other_shapes,
    pixel_digest,
    pixel_hashes,
    read_images,
    remarks,
    split,
)
from dpclean.data.records import DataOptions
from dpclean.denoise.loading import DenoiserFiles, find_denoiser
from dpclean.errors import InputError, shown_names
from dpclean.jobs.durable import write_durably
from dpclean.train.recipes import TORCHVISION

if TYPE_CHECKING:
    from dpclean.train.fixed_model import FixedModel

POINT_SOURCE = "test"
DEFAULT_DENOISER, DEFAULT_METHOD = "natural", "one-step"


@dataclass(frozen=True)
class CertifiedImages:
    """The test images, all of one shape [H,W,C], with labels that are places in the model's classes (-1 unknown)."""

    points: Images
    model: FixedModel
    denoiser: DenoiserFiles
    method: str
    data_options: DataOptions
    remarks: list[str]
    points_digest: str
    point_images: Ancestry

    @property
    def classes(self) -> tuple[str, ...]:
        return self.points.classes

    @property
    def values(self) -> int:
        """Pixel values of one image."""
        return self.points.pixels[0].size


def read_certified_images(options: CertifyOptions, *, labelled: bool = True) -> CertifiedImages:
    """Read the test images and the model and check them against each other. labelled: else folders name no classes.

    Raises InputError for images of several sizes, or of another than the model takes, and for classes other than its.
    """
    from dpclean.train.fixed_model import find_model

    assert options.model is not None and options.test is not None
    model = find_model(options.model, options.weights)
    denoiser = find_denoiser(options.denoiser or DEFAULT_DENOISER)
    read = DataOptions()
    whole = read_images(options.test, read, workers=options.workers)
    points = (split(whole)[1] if labelled else None) or whole
    _check_sizes(points, model, options.test)
    if not labelled:
        points = replace(points, labels=np.full(len(points), -1, np.int64), classes=())
    points = _labelled(points, model, options.test)
    hashes = pixel_hashes(points)
    return CertifiedImages(
        points=points,
        model=model,
        denoiser=denoiser,
        method=options.method or DEFAULT_METHOD,
        data_options=read,
        remarks=remarks(whole, points) + unlike(model, options.sigma),
        points_digest=pixel_digest(points, hashes),
        point_images=Ancestry.of(hashes),
    )


def unlike(model: FixedModel, sigma: str | None) -> list[str]:
    """What a user should know of a model that has seen noise of another size."""
    if sigma is None or model.sigma_augment in (None, float(sigma)):
        return []
    return [
        f"the model {model.id!r} was trained on images noised at sigma {model.sigma_augment:g} and denoised, and here"
        f" sigma is {sigma}: it is right less often than one that was trained at this sigma may be"
    ]


def _check_sizes(points: Images, model: FixedModel, path: Path) -> None:
    shapes = sorted({image.shape for image in points.pixels})
    if len(shapes) > 1:
        shown = " and ".join(_size(shape) for shape in shapes[:2])
        raise InputError(
            f"the images in {str(path)!r} are not all of one size: there are {shown}, and others than most are"
            f" {shown_names(of_other_shapes(points))}",
            "leave these out, or certify those of each size by themselves, or bring all to one size first",
        )
    if model.recipe.size is None and shapes[0][:2] != (model.size, model.size):
        raise InputError(
            f"the model {model.id!r} takes images of {model.size} x {model.size}, those in {str(path)!r} are"
            f" {_size(shapes[0])}",
            "give images of its size, or a model that was trained at this one",
        )


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width} x {height} with {channels} channel{'s' * (channels > 1)}"


def _labelled(points: Images, model: FixedModel, path: Path) -> Images:
    """The images with the classes of the model; of one without names they are those of the images, in their order."""
    if model.classes is None:
        if points.classes and len(points.classes) != model.outputs:
            raise InputError(
                f"the model {model.id!r} tells {model.outputs} classes apart, {str(path)!r} has {len(points.classes)}",
                f"give images in {model.outputs} classes, sorted by name as the model was trained",
            )
        return replace(points, classes=points.classes or tuple(map(str, range(model.outputs))))
    used = {points.classes[label] for label in points.labels.tolist() if label >= 0}
    if unknown := sorted(used - set(model.classes)):
        raise InputError(
            f"the model {model.id!r} does not know the class{'es' * (len(unknown) > 1)} {shown_names(unknown)} of"
            f" {str(path)!r}",
            f"name the classes as it does: {', '.join(model.classes[:10])}{', ...' * (len(model.classes) > 10)}",
        )
    return replace(points, labels=match_labels(points, model.classes), classes=model.classes)


def model_place(options: CertifyOptions) -> str | None:
    """The path of the model or of its weights."""
    named = options.model is not None and options.model.startswith(TORCHVISION)
    return str(options.weights) if named and options.weights is not None else options.model


@dataclass(frozen=True)
class PointData:
    """The test images as a worker holds them: uint8 [P,H,W,C]; indices int64 [P], places in the listing."""

    pixels: NDArray[np.uint8]
    indices: NDArray[np.int64]

    @classmethod
    def of(cls, points: Images) -> PointData:
        """What a run reads; labels of points are read by nobody before all votes are in."""
        return cls(np.stack(points.pixels), points.indices)

    def digest(self) -> str:
        """Hex SHA-256. In bytes: "dpclean-inputs-3"; the shape (u64 LE), the pixels, the indices (i64 LE)."""
        whole = hashlib.sha256(b"dpclean-inputs-3")
        whole.update(np.array(self.pixels.shape, "<u8").tobytes())
        whole.update(np.ascontiguousarray(self.pixels).data)
        whole.update(np.ascontiguousarray(self.indices, "<i8").tobytes())
        return whole.hexdigest()

    def write(self, path: Path) -> None:
        """Put the images where workers find them."""
        write_durably(path, save({"pixels": self.pixels, "indices": self.indices}))


def read_points(path: Path, digest: str) -> PointData:
    """What PointData.write wrote. Raises InputError where it is not what the job was begun with."""
    return read_checked(path, digest, lambda tensors: PointData(**tensors), PointData.digest)
