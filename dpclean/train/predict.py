"""What a model makes of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpclean.data.dataset import read_images, unusable
from dpclean.device import choose_device
from dpclean.jobs.checks import given_path
from dpclean.train.images import prepare
from dpclean.train.model import read_model


@dataclass(frozen=True)
class Prediction:
    """One image's most probable class. probability: of the network's softmax, nothing that is proved."""

    name: str
    class_name: str
    probability: float


@dataclass(frozen=True)
class Predictions:
    """In the order of the listing. quarantined: images that cannot be used, by reason; warnings names the first."""

    model: str
    classes: list[str]
    predictions: list[Prediction]
    quarantined: dict[str, int]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        rows = [{"name": p.name, "class": p.class_name, "probability": p.probability} for p in self.predictions]
        return {
            "format": 1,
            "command": "predict",
            "model": self.model,
            "classes": self.classes,
            "predictions": rows,
            "quarantined": self.quarantined,
            "warnings": self.warnings,
        }


def predict(model: Path, images: Path, *, device: str = "auto", workers: int | None = None) -> Predictions:
    """Classify a folder of images or of shards with what `train` wrote. Raises InputError, ConflictError."""
    read = read_model(given_path(model))
    trainer = read.trainer(choose_device(device))
    found = read_images(images, workers=workers)
    scores = trainer.scores(prepare(found.pixels, read.description.size))
    best = scores.max(1)
    classes = read.description.classes
    rows = zip(found.names, best.indices.tolist(), best.values.tolist(), strict=True)
    predictions = [Prediction(name, classes[place], round(value, 6)) for name, place, value in rows]
    said = found.remarks + unusable(found.left_out, "images")
    return Predictions(str(model), classes, predictions, found.quarantined, said)
