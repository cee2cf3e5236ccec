"""What makes a folder of weights a model: its description, its accuracy, its ancestry, its curve."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from dpclean import __version__
from dpclean.classifier_training.curve import curve_plot, curve_tsv
from dpclean.classifier_training.inputs import images_by_class
from dpclean.classifier_training.noise_augmentation import NoiseAugmentation
from dpclean.classifier_training.training_set import TrainingSet
from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.jobs.durable import write_durably
from dpclean.report.plot import svg
from dpclean.train import model as models
from dpclean.train.images import prepare
from dpclean.train.trainer import Epoch, Trainer

TABLE_NAME, DRAWING_NAME = "training.tsv", "training.svg"


def write_outputs(
    folder: Path,
    out: Path,
    training_set: TrainingSet,
    trainer: Trainer,
    curve: Sequence[Epoch],
    host: dict[str, str],
    augmentation: NoiseAugmentation | None = None,
) -> models.Description:
    """Write everything that out is to hold into folder; gives back what model.json says."""
    found = training_set.inputs
    weights = save(trainer.state_dict())
    reasons = training_set.not_certifiable()
    description = models.Description(
        format=models.FORMAT,
        tool=f"dpclean {__version__}",
        classes=list(found.train.classes),
        size=trainer.size,
        recipe=training_set.recipe,
        recipe_sha256=training_set.recipe.digest(),
        seed=training_set.options.seed,
        parameters=training_set.parameters,
        data=models.TrainedOn(
            path=os.path.relpath(training_set.clean, out),
            images=len(found.train),
            images_by_class=images_by_class(found.train),
            pixel_digest=found.train_digest,
            sigma=found.manifest.noise.sigma if found.manifest else None,
            manifest_sha256=found.manifest_sha256,
            raw_pixel_digests=sorted(training_set.ancestry.raw_pixel_digests),
        ),
        accuracy=_accuracy(training_set, trainer),
        sigma_augment=_augmented(training_set, trainer, augmentation) if augmentation is not None else None,
        certifiable=not reasons,
        not_certifiable=reasons,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        host=host,
    )
    write_durably(folder / models.WEIGHTS_NAME, weights)
    write_durably(folder / ANCESTRY_NAME, training_set.ancestry.dump())
    write_durably(folder / TABLE_NAME, curve_tsv(curve).encode())
    write_durably(folder / DRAWING_NAME, svg(curve_plot(curve)).encode())
    write_durably(folder / models.NAME, models.dump(description))
    return description


def _augmented(
    training_set: TrainingSet, trainer: Trainer, augmentation: NoiseAugmentation
) -> models.Augmentation | None:
    files, sigma, test = training_set.denoiser, training_set.options.sigma_augment, training_set.inputs.test
    assert files is not None and sigma is not None
    correct = None
    if test is not None and len(test):
        images = augmentation.images(test, trainer.size, epoch=0, test=True)
        correct = int((trainer.predict(images).numpy() == test.labels).sum())
    return models.Augmentation(
        sigma, files.id, files.digests(), training_set.method, augmentation.engine["dtype"], correct
    )


def _accuracy(training_set: TrainingSet, trainer: Trainer) -> models.Accuracy | None:
    """Right predictions among the test images, of each class and in all."""
    test = training_set.inputs.test
    if test is None or not len(test):
        return None
    right = trainer.predict(prepare(test.pixels, trainer.size)).numpy() == test.labels
    per_class = [
        models.ClassAccuracy(name, int((test.labels == label).sum()), int(right[test.labels == label].sum()))
        for label, name in enumerate(test.classes)
    ]
    return models.Accuracy(
        source=training_set.inputs.test_source,
        images=len(test),
        correct=int(right.sum()),
        shared=training_set.inputs.shared,
        per_class=per_class,
        pixel_digest=training_set.inputs.test_digest or "",
    )
