"""New images classified by the vote of the models that a job kept, each with its radius."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dpclean.certify.certificate import build
from dpclean.certify.method import recipe_of
from dpclean.certify.publish import CERTIFICATE_NAME, holds_certificate
from dpclean.certify.results import VotedImage
from dpclean.certify.store import MODELS
from dpclean.certify.votes import VOTES_NAME, Votes, read_votes
from dpclean.denoise.denoiser import choose_device
from dpclean.errors import InputError
from dpclean.train.dataset import read_images
from dpclean.train.images import prepare
from dpclean.train.trainer import Trainer


def predict(certificate: Path, images: Path, *, device: str = "auto", workers: int | None = None) -> list[VotedImage]:
    """The vote of the kept models on each image, in the order of the listing.

    Each claim is one of level alpha, valid for an image that was chosen without looking at these models.
    Raises InputError where there are no models, or where points were noised: an image's noise may be drawn once only.
    """
    if not holds_certificate(certificate):
        raise InputError(f"{str(certificate)!r} is not there", f"give a folder with {CERTIFICATE_NAME} in it")
    terms = read_votes(certificate / VOTES_NAME).terms
    models = certificate / MODELS
    if not models.is_dir():
        raise InputError(f"{str(certificate)!r} has no models", "certify again with --keep-models")
    if terms["threat"] != "clean-test":
        raise InputError(
            "these models vote on noised images, and the noise of a new image could be drawn once only",
            "certify with --threat clean-test to classify new images",
        )
    found = read_images(images, workers=workers)
    trainer = Trainer(
        recipe_of(terms["recipe"]), len(terms["classes"]), size=terms["size"], device=choose_device(device)
    )
    prepared = prepare(found.pixels, terms["size"])
    votes = np.full((terms["runs"], len(found)), -1, np.int32)
    for run in range(1, terms["runs"] + 1):
        path = models / f"{run:07d}.safetensors"
        if path.exists():  # a run that failed left none: a vote for nobody
            votes[run - 1] = _votes(trainer, path, prepared)
    points = {"points": len(found), "point_names": found.names, "family": "point"}
    made = build(Votes(votes, None, None, {**terms, **points}), "")
    return [
        VotedImage(
            name=point["name"],
            predicted=None if point["class"] < 0 else terms["classes"][point["class"]],
            certified_radius=point["certified_radius"],
            votes=point["k_a"],
            runs=terms["runs"],
        )
        for point in made["points"]
    ]


def _votes(trainer: Trainer, path: Path, prepared: torch.Tensor) -> NDArray[np.int32]:
    trainer.load_state_dict(load_file(path))
    votes: NDArray[np.int32] = trainer.predict(prepared).cpu().numpy().astype(np.int32)
    return votes
