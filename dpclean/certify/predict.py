"""New images classified by the vote of the models that a job kept, each with its radius."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import UnsetType, ValidationError, structs
from numpy.typing import NDArray
from safetensors import SafetensorError

from dpclean.certificate.certificate import build
from dpclean.certificate.elections import NO_RANKING
from dpclean.certificate.files import CERTIFICATE_NAME, parameters_in, read
from dpclean.certificate.parameters import (
    EvasionParameters,
    ExtractorUsed,
    JobParameters,
    has_rankings,
    kinds_of_images,
    parts_of,
)
from dpclean.certificate.threats import DEFAULT_THREAT, find_threat
from dpclean.certificate.verify import folder_of, verify
from dpclean.certificate.votes import ABSTAIN, VOTES_NAME, Votes, first_of, read_votes
from dpclean.certify.extracted import rows_of
from dpclean.certify.feature_inputs import read_points
from dpclean.certify.feature_runs import NOT_KEPT, load_head
from dpclean.certify.results import VotedImage
from dpclean.certify.run_settings import recipe_of
from dpclean.certify.run_tasks import NO_MODEL
from dpclean.certify.runs import Ballot, ballot_of
from dpclean.certify.save import holds_certificate
from dpclean.certify.workdir import MODELS, model_name, read_model
from dpclean.data.dataset import Images, read_images, unusable
from dpclean.data.features import holds_features
from dpclean.errors import InputError, UsageError
from dpclean.progress import Pace, Progress, Show, shown_as_asked
from dpclean.train.ridge import rankings as rankings_of
from dpclean.train.ridge import votes as votes_of

Vote: TypeAlias = Callable[[bytes], Ballot]  # what a kept model says of each image
Remark: TypeAlias = Callable[[str], None]


def predict(
    certificate: Path,
    images: Path,
    *,
    extractor: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    smooth: bool = False,
    on_remark: Remark = lambda remark: None,
    progress: Show | bool | None = None,
) -> list[VotedImage]:
    """The vote of the kept models on each image, or row of features, in the order of the listing, after `verify`.

    Of a certificate at test time it is the smoothed prediction with its settings (smooth.py); smooth: of others it is
    refused. on_remark: gets what a user should know.

    Each claim is one of level alpha, valid for an image that was chosen without looking at these models; of models of
    parts it is true of any image. A run without a model is one that failed or took too little: its votes say so, and it
    is a vote for nobody here too. extractor, weights: where that of the certificate is found, of which the digest is
    compared; by default under the name that it had.
    Raises InputError where there are no models, or where points were noised: an image's noise may be drawn once only.
    Raises DifferenceError where the certificate does not hold, or a model is not the one that voted.
    """
    folder = folder_of(certificate)
    if not holds_certificate(folder):
        raise InputError(f"{str(folder)!r} is not there", f"give a folder with {CERTIFICATE_NAME} in it")
    verify(folder)
    terms = parameters_in(read(folder / CERTIFICATE_NAME))
    if isinstance(terms, EvasionParameters):
        from dpclean.certify.smooth import smooth_as_certified

        if extractor is not None:
            raise UsageError("an extractor makes rows of images, and here is one model for images", "leave it out")
        return smooth_as_certified(
            terms, images, weights=weights, device=device, workers=workers, on_remark=on_remark, progress=progress
        )
    if smooth:
        raise InputError(
            f"{str(folder)!r} names no model that could be asked about noised images",
            "leave --smooth out, or give a model that 'dpclean train' made",
        )
    kept = read_votes(folder / VOTES_NAME)
    parameters = kept.parameters
    if kept.models is None or not isinstance(parameters, JobParameters):
        raise InputError(f"{str(folder)!r} has no models", "certify again with --keep-models")
    if find_threat(parameters.threat).noises_points:
        raise InputError(
            "these models vote on noised images, and the noise of a new image could be drawn once only",
            f"certify with --threat {DEFAULT_THREAT} to classify new images",
        )
    used = parameters.extractor
    if isinstance(used, ExtractorUsed) and not holds_features(images):
        found = _read(images, workers, on_remark)
        names, rows = found.names, _extracted(used, found, extractor or used.id, weights, device)
        vote = _on_rows(parameters, rows)
    elif (extractor, weights) != (None, None):
        raise UsageError("an extractor makes rows of images, and here it has none to make", "leave --extractor out")
    elif isinstance(parameters.dimensions, UnsetType):
        found = _read(images, workers, on_remark)
        names, vote = found.names, _on_images(parameters, found, device)
    else:
        names, rows = _given_rows(parameters, images)
        vote = _on_rows(parameters, rows)
    votes = np.full((parameters.runs, len(names)), ABSTAIN, np.int32)
    rankings = None
    if has_rankings(parameters):
        rankings = np.full((*votes.shape, len(parameters.classes)), NO_RANKING, np.uint16)
    pace, total = Pace(), parameters.runs
    with shown_as_asked(progress) as tell:
        for place, digest in enumerate(row.tobytes() for row in kept.models):
            if digest != NO_MODEL:
                ballot = vote(read_model(folder / MODELS / model_name(place + 1), digest))
                if rankings is None:
                    votes[place] = ballot
                else:
                    rankings[place], votes[place] = ballot, first_of(ballot)
            tell(Progress(place + 1, total, "models", pace.seconds_left(place + 1, total)))
    family = "point" if parts_of(parameters) is None else parameters.family
    made_of = structs.replace(parameters, points=len(names), point_names=names, family=family)
    made = build(Votes(votes, None, None, made_of, rankings=rankings), "")
    return [
        VotedImage(
            name=point["name"],
            predicted=None if point["class"] < 0 else parameters.classes[point["class"]],
            certified_radius=point["certified_radius"],
            votes=point["k_a"],
            runs=parameters.runs - parameters.selection_runs,
            whole={kind: point[kind] for kind in kinds_of_images(parameters)},
        )
        for point in made["points"]
    ]


def _read(images: Path, workers: int | None, on_remark: Remark) -> Images:
    found = read_images(images, workers=workers)
    for remark in unusable(found.left_out, "images"):
        on_remark(remark)
    return found


def _on_images(parameters: JobParameters, images: Images, device: str) -> Vote:
    """How a model votes on images."""
    import torch
    from safetensors.torch import load

    from dpclean.device import choose_device
    from dpclean.train.images import prepare
    from dpclean.train.trainer import Trainer

    size = parameters.size
    assert size is not None  # as models are kept, no command trained them
    try:
        recipe = recipe_of(parameters.recipe)
    except ValidationError as error:
        raise InputError(f"the certificate names no recipe that models are trained by: {error}", NOT_KEPT) from error
    trainer = Trainer(recipe, len(parameters.classes), size=size, device=choose_device(device))
    prepared: torch.Tensor = prepare(images.pixels, size)

    def vote(model: bytes) -> Ballot:
        try:
            weights = load(model)
        except SafetensorError as error:
            raise InputError(f"a model that was kept cannot be read: {error}", NOT_KEPT) from error
        trainer.load_state_dict(weights)
        if parts_of(parameters) is None:
            return trainer.predict(prepared).cpu().numpy().astype(np.int32)
        return ballot_of(trainer.scores(prepared).numpy(), ranked=has_rankings(parameters))

    return vote


def _on_rows(parameters: JobParameters, rows: NDArray[np.float32]) -> Vote:
    """How a head votes on rows."""
    cast = rankings_of if has_rankings(parameters) else votes_of
    dimensions, classes = rows.shape[1], len(parameters.classes)
    return lambda model: cast([load_head(model, dimensions, classes)], rows)[0]


def _extracted(
    used: ExtractorUsed, images: Images, source: str, weights: Path | None, device: str
) -> NDArray[np.float32]:
    """What the extractor of a certificate makes of images. Raises InputError for another one."""
    from dpclean.device import choose_device
    from dpclean.train.extractor import find_extractor

    found = find_extractor(source, weights, device=choose_device(device))
    if (found.digest, found.size) != (used.digest, used.size):
        raise InputError(
            f"the extractor {source!r} is not that of the certificate, which has other weights or gets images of"
            f" another size ({used.size})",
            f"name the one that was {used.id!r} with --extractor",
        )
    return rows_of(found, images.pixels)


def _given_rows(parameters: JobParameters, path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """The names of rows, and the rows. Raises InputError for rows of another length or extractor."""
    found = read_points(path)
    if found.dimensions != parameters.dimensions:
        raise InputError(
            f"{str(path)!r} has rows of {found.dimensions} numbers, the certificate is about rows of"
            f" {parameters.dimensions}",
            "make them with the same extractor",
        )
    extractor = parameters.extractor
    if not isinstance(extractor, UnsetType) and found.made_by not in (None, extractor.digest):
        raise InputError(
            f"the rows in {str(path)!r} were made by another extractor than {extractor.id!r}",
            "make them with the same extractor",
        )
    return found.names, found.rows
