"""New images classified by the vote of the models that a job kept, each with its radius."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from safetensors.torch import load

from dpclean.certificate.bounds.base import NO_IMAGES
from dpclean.certificate.certificate import build
from dpclean.certificate.files import CERTIFICATE_NAME
from dpclean.certificate.parameters import JobParameters
from dpclean.certificate.threats import DEFAULT_THREAT, find_threat
from dpclean.certificate.verify import folder_of, verify
from dpclean.certificate.votes import ABSTAIN, VOTES_NAME, Votes, read_votes
from dpclean.certify.results import VotedImage
from dpclean.certify.run_settings import recipe_of
from dpclean.certify.run_tasks import NO_MODEL
from dpclean.certify.save import holds_certificate
from dpclean.certify.workdir import MODELS, model_name, read_model
from dpclean.data.dataset import read_images
from dpclean.device import choose_device
from dpclean.errors import InputError
from dpclean.train.images import prepare
from dpclean.train.trainer import Trainer


def predict(certificate: Path, images: Path, *, device: str = "auto", workers: int | None = None) -> list[VotedImage]:
    """The vote of the kept models on each image, in the order of the listing; the certificate is verified first.

    Each claim is one of level alpha, valid for an image that was chosen without looking at these models. A run without
    a model is one that failed or took too little: its votes say so, and it is a vote for nobody here too.
    Raises InputError where there are no models, or where points were noised: an image's noise may be drawn once only.
    Raises DifferenceError where the certificate does not hold, or a model is not the one that voted.
    """
    folder = folder_of(certificate)
    if not holds_certificate(folder):
        raise InputError(f"{str(folder)!r} is not there", f"give a folder with {CERTIFICATE_NAME} in it")
    verify(folder)
    kept = read_votes(folder / VOTES_NAME)
    parameters = kept.parameters
    if kept.models is None or not isinstance(parameters, JobParameters) or parameters.size is None:
        raise InputError(f"{str(folder)!r} has no models", "certify again with --keep-models")
    if find_threat(parameters.threat).noises_points:
        raise InputError(
            "these models vote on noised images, and the noise of a new image could be drawn once only",
            f"certify with --threat {DEFAULT_THREAT} to classify new images",
        )
    found = read_images(images, workers=workers)
    trainer = Trainer(
        recipe_of(parameters.recipe), len(parameters.classes), size=parameters.size, device=choose_device(device)
    )
    prepared = prepare(found.pixels, parameters.size)
    votes = np.full((parameters.runs, len(found)), ABSTAIN, np.int32)
    for place, digest in enumerate(row.tobytes() for row in kept.models):
        if digest != NO_MODEL:
            model = read_model(folder / MODELS / model_name(place + 1), digest)
            votes[place] = _votes(trainer, model, prepared)
    made_of = structs.replace(parameters, points=len(found), point_names=found.names, family="point")
    made = build(Votes(votes, None, None, made_of), "")
    return [
        VotedImage(
            name=point["name"],
            predicted=None if point["class"] < 0 else parameters.classes[point["class"]],
            certified_radius=point["certified_radius"],
            votes=point["k_a"],
            runs=parameters.runs,
            whole={kind: point[kind] for kind in NO_IMAGES.as_json() if kind in point},
        )
        for point in made["points"]
    ]


def _votes(trainer: Trainer, model: bytes, prepared: torch.Tensor) -> NDArray[np.int32]:
    trainer.load_state_dict(load(model))
    votes: NDArray[np.int32] = trainer.predict(prepared).cpu().numpy().astype(np.int32)
    return votes
