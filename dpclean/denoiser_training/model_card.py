"""The model card of a fitted denoiser: what it is, what it was made of and how, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def card(
    sources: Sequence[Path],
    training: Training,
    *,
    init: DenoiserFiles | None,
    ancestry: Ancestry,
    loss: float,
    engine: Mapping[str, object],
) -> str:
    """README.md in the folder of a denoiser."""
    recipe, patches = training.recipe, training.patches
    size = sum(tensor.numel() for tensor in training.average.values())
    named = ", ".join(f"`{printable(path.name)}`" for path in sources)
    threads = f", {engine['threads']} threads" if engine["threads"] is not None else ""
    left_out = sum(patches.quarantined.values())
    begun = "random weights" if init is None else f"`{printable(init.id)}` (weights {init.digests()['weights']})"
    shuffled = (
        ""
        if training.patch_size == 1
        else f"It works on patches of {training.patch_size} x {training.patch_size} pixels: in diffusers, wrap it in"
        f" `pixel_unshuffle` and `pixel_shuffle` of {training.patch_size}.\n"
    )
    classifier = training.classifier
    perceptual = (
        ""
        if classifier is None
        else f" plus {PERCEPTUAL_WEIGHT:g} times the logarithm\nof the distance in the features of the classifier"
        f" `{printable(Path(classifier.name).name)}` (weights\n{classifier.weights_sha256}),"
        f" for patches of up to {classifier.size} pixels,"
    )
    known = (
        "`dpclean.ancestry` has 8 bytes of the pixel hash of every image that went in,\n"
        "so that `certify` can refuse to certify those images with it."
    )
    if not ancestry.complete:
        known += f"\nIt is incomplete, because {ancestry.because()}."
    return f"""# A denoiser for dpclean

`UNet2DModel` in the diffusers layout, {size / 1e6:.2f} million parameters, {training.prediction_type},
for noise of sigma {SIGMA_RANGE[0]:g} to {SIGMA_RANGE[1]:g} on the [0, 1] pixel scale, any size, colour or grey.
{shuffled}
    dpclean sanitize ./raw --sigma 0.25 --denoiser THIS_FOLDER --out ./clean

## Data

{patches.images:,} images from {named} ({left_out} left out),
as {len(patches.large):,} patches of 64 x 64 and {len(patches.small):,} of 32 x 32.
{known}

## Recipe

Written by `dpclean denoiser fit` {engine["dpclean"]}, from {begun}:
{recipe.steps:,} steps of {recipe.batch_size} patches of 32 x 32,
every {LARGE_EVERY}th step a quarter as many of 64 x 64;
Muon for the inner filters (peak rate {MUON_FACTOR * recipe.learning_rate:g}), AdamW for the rest
({recipe.learning_rate:g}), cosine, gradient norm clipped at 1, exponential average, bfloat16;
loss: squared error of the image over sigma^2 / (1 + {USUAL_GAIN:g} sigma), sigma log-uniform,{perceptual}
seed {recipe.seed};
torch {engine["torch"]} on {engine["device"]}{threads}. Mean loss at the end: {loss:.4f}. Weights stored in float16.

## Quality

`samples.png` shows training images clean, noised (above) and denoised (below) at several sigma.
`dpclean denoiser eval THIS_FOLDER IMAGES` measures PSNR and SSIM on images of your own; use ones that are not above.

## Limits

- The noise must be Gaussian of the size that the timestep says: it is no general image restorer.
- Detail that the noise drowned is gone. What comes back is the most likely smooth image, not the original.
- The terms of the images it was made of hold for `{WEIGHTS}` too, as far as they reach.
"""
