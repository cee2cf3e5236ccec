"""The model card of a fitted denoiser: what it is, what it was made of and how, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from dpclean.data.ancestry import Ancestry
from dpclean.denoise.loading import WEIGHTS, DenoiserFiles
from dpclean.denoiser_training.training import (
    LARGE_EVERY,
    MUON_FACTOR,
    PERCEPTUAL_WEIGHT,
    SIGMA_RANGE,
    USUAL_GAIN,
    Training,
)
from dpclean.errors import printable
from dpclean.train.model import Classifier


def card(
    sources: Sequence[Path],
    training: Training,
    *,
    init: DenoiserFiles | None,
    ancestry: Ancestry,
    loss: float,
    engine: Mapping[str, object],
) -> str:
    """README.md in the folder of a denoiser: model_card.md beside this, filled in."""
    recipe, patches = training.recipe, training.patches
    return resources.files(__package__).joinpath("model_card.md").read_text("utf-8").format(
        millions=sum(tensor.numel() for tensor in training.average.values()) / 1e6,
        prediction_type=training.prediction_type,
        sigma_range=SIGMA_RANGE,
        patches_of_pixels=_patches_of_pixels(training.patch_size),
        images=patches.images,
        named=", ".join(f"`{printable(path.name)}`" for path in sources),
        left_out=sum(patches.quarantined.values()),
        large=len(patches.large),
        small=len(patches.small),
        known=_known(ancestry),
        engine=engine,
        begun="random weights" if init is None else f"`{printable(init.id)}` (weights {init.digests()['weights']})",
        recipe=recipe,
        large_every=LARGE_EVERY,
        muon_rate=MUON_FACTOR * recipe.learning_rate,
        usual_gain=USUAL_GAIN,
        perceptual=_perceptual(training.classifier),
        threads=f", {engine['threads']} threads" if engine["threads"] is not None else "",
        loss=loss,
        weights=WEIGHTS,
    )  # fmt: skip


def _patches_of_pixels(size: int) -> str:
    if size == 1:
        return ""
    return (
        f"It works on patches of {size} x {size} pixels: in diffusers, wrap it in"
        f" `pixel_unshuffle` and `pixel_shuffle` of {size}.\n"
    )


def _perceptual(classifier: Classifier | None) -> str:
    if classifier is None:
        return ""
    return (
        f" plus {PERCEPTUAL_WEIGHT:g} times the logarithm\nof the distance in the features of the classifier"
        f" `{printable(Path(classifier.name).name)}` (weights\n{classifier.weights_sha256}),"
        f" for patches of up to {classifier.size} pixels,"
    )


def _known(ancestry: Ancestry) -> str:
    known = (
        "`dpclean.ancestry` has 8 bytes of the pixel hash of every image that went in,\n"
        "so that `certify` can refuse to certify those images with it."
    )
    return known if ancestry.complete else f"{known}\nIt is incomplete, because {ancestry.because()}."
