"""Everything that goes into a training, each read once, when it is first needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dpclean.classifier_training import inputs as data
from dpclean.classifier_training.inputs import Inputs
from dpclean.classifier_training.options import TrainOptions
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry, ancestry_of_data, united
from dpclean.data.dataset import Images, pixel_digest, pixel_hashes, read_images, relabelled, split
from dpclean.denoise.loading import DenoiserFiles, find_denoiser
from dpclean.denoise.methods import find_method
from dpclean.train.images import prepare
from dpclean.train.init import Init, described_init, find_init
from dpclean.train.recipes import Recipe, default_recipe, find_recipe

RAW_FIRST = "training began on raw data (--warm-start)"
NOISED_ANEW = (
    "the images were noised anew in every epoch (--sigma-augment), and a certificate against poisoning is for data"
    " noised once"
)
DENOISER, METHOD = "natural", "one-step"  # of --sigma-augment, unless it is told


@dataclass(frozen=True)
class Warm:
    """Raw data to begin on. Whatever is trained from them is not certifiable."""

    images: Images
    digest: str
    ancestry: Ancestry


class TrainingSet:
    """Images, recipe and weights to begin from, and what is to be said of them. Raises what reading them raises."""

    def __init__(self, clean: Path, options: TrainOptions) -> None:
        self.clean = clean
        self.options = options

    @cached_property
    def inputs(self) -> Inputs:
        denoiser = self.denoiser.ancestry() if self.denoiser is not None else Ancestry()
        return data.read_inputs(self.clean, self.options, denoiser)

    @cached_property
    def denoiser(self) -> DenoiserFiles | None:
        """The files of what takes the noise of --sigma-augment away; None without."""
        return None if self.options.sigma_augment is None else find_denoiser(self.options.denoiser or DENOISER)

    @property
    def method(self) -> str:
        """How it does that."""
        return find_method(self.options.method or METHOD).name

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe asked for, that of the model begun from, or the one that fits the images."""
        name = self.options.recipe
        if name is not None:
            recipe = find_recipe(name)
        else:
            known = described_init(self.options.init) if self.options.init else None
            recipe = known.recipe if known else default_recipe(self.inputs.train.pixels)
        return replace(recipe, freeze=self.options.freeze)

    @cached_property
    def init(self) -> Init | None:
        return None if self.options.init is None else find_init(self.options.init, self.recipe)

    @cached_property
    def warm(self) -> Warm | None:
        if self.options.warm_start is None:
            return None
        raw = split(read_images(self.options.warm_start, workers=self.options.workers))[0]
        raw = relabelled(raw.take(raw.labels >= 0), self.inputs.train.classes)
        hashes = pixel_hashes(raw)
        digest = pixel_digest(raw, hashes)
        inherited = ancestry_of_data(self.options.warm_start)
        return Warm(raw, digest, Ancestry.of(hashes, digest) | inherited)

    @cached_property
    def tensor(self) -> Tensor:
        """The training images, uint8 [N,S,S,3]."""
        return prepare(self.inputs.train.pixels, self.recipe.size)

    @property
    def size(self) -> int:
        """S."""
        return int(self.tensor.shape[1])

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the weights and what is said of them, ready for JSON."""
        o, found = self.options, self.inputs
        return {
            "data": found.train_digest,
            "manifest": found.manifest_sha256,
            "test": found.test_digest,
            "holdout": o.holdout,
            "recipe": self.recipe.as_dict(),
            "init": self.init.digest if self.init else None,
            "warm_start": self.warm.digest if self.warm else None,
            "warm_epochs": o.warm_epochs if self.warm else None,
            "seed": o.seed,
            **self._augmentation,
        }

    @cached_property
    def _augmentation(self) -> dict[str, Any]:
        if self.denoiser is None:
            return {}
        denoiser = {"denoiser": self.denoiser.id, "denoiser_digests": self.denoiser.digests()}
        return {"sigma_augment": self.options.sigma_augment, **denoiser, "method": self.method}

    @cached_property
    def ancestry(self) -> Ancestry:
        """All that goes in and what it was made of, as far as that is known."""
        begun_from = [part.ancestry for part in (self.warm, self.init) if part is not None]
        return united([self.inputs.ancestry, *begun_from])

    def told_at_once(self) -> list[str]:
        """Why no certificate can rest on weights made of this, as far as it is known before anything is read."""
        reasons = data.without_looking(self.clean, manifests.read(self.clean))
        reasons += [RAW_FIRST] * (self.options.warm_start is not None)
        return reasons + [NOISED_ANEW] * (self.options.sigma_augment is not None)

    def not_certifiable(self) -> list[str]:
        """Why no certificate can rest on weights made of this, one sentence each."""
        reasons = list(self.inputs.not_sanitized)
        if self.warm is not None:
            reasons.append(RAW_FIRST)
        if self.denoiser is not None:
            reasons.append(NOISED_ANEW)
        if self.init is not None:
            reasons += [f"the weights begun from: {reason}" for reason in self.init.not_certifiable]
        return reasons

    def warnings(self) -> list[str]:
        """What a user should know, one sentence each."""
        found = self.inputs
        gaps = self.ancestry.because()
        said = [
            (
                found.shared,
                "test images that are among the training images or went into their denoiser, so accuracy flatters:"
                f" {found.shared}",
            ),
            (found.test is None, "no test images, so no accuracy: --test or --holdout 0.1 names some"),
            (gaps, f"what the model was made of is not known in full: {gaps}"),
            (
                self.denoiser is not None and found.manifest is not None,
                "the training data are sanitized already, and were noised and denoised on top of that",
            ),
        ]
        reasons = [f"not certifiable: {reason}" for reason in self.not_certifiable()]
        return reasons + found.remarks + [sentence for applies, sentence in said if applies]
