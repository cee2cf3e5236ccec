"""New images classified by the vote of one model on noised and denoised copies of each, with abstention and radius."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from msgspec import structs

from dpclean.certificate.certificate import build
from dpclean.certificate.limits import check_parameters
from dpclean.certificate.parameters import EvasionParameters
from dpclean.certificate.threats import EVASION
from dpclean.certificate.votes import Votes
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_test_time_parameters
from dpclean.certify.results import VotedImage
from dpclean.certify.run_settings import make_test_time_settings
from dpclean.certify.test_time_inputs import CertifiedImages, PointData, read_certified_images
from dpclean.certify.test_time_runs import TestTimeRuns
from dpclean.errors import InputError, UsageError
from dpclean.noise.keys import commitment, draw_key
from dpclean.progress import Pace, Progress, Show, shown_as_asked


class SmoothKeywords(TypedDict, total=False):
    """Those of CertifyOptions that decide about smoothed predictions."""

    sigma: str | None
    runs: int | None
    alpha: str | None
    local_smoothing: str | None
    denoiser: str | None
    method: str | None


def smooth(
    model: str | os.PathLike[str],
    images: Path,
    *,
    weights: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_remark: Callable[[str], None] = lambda remark: None,
    progress: Show | bool | None = None,
    **options: Unpack[SmoothKeywords],
) -> list[VotedImage]:
    """The smoothed prediction of each image, in the order of the listing, under a key that is drawn now and forgotten.

    Each claim is one of level alpha by itself; nothing is written that could be verified. on_remark: gets a sentence on
    whatever a user should know of model or images. progress: as everywhere, of the runs. Raises what `certify` does
    under the threat evasion.
    """
    if options.get("sigma") is None:
        raise UsageError("a smoothed prediction is of noised images, and --sigma is missing", "0.25 is a common choice")
    asked = CertifyOptions(
        threat=EVASION,
        model=os.fspath(model),
        weights=weights,
        test=images,
        device=device,
        workers=workers,
        **options,
    )
    return _smoothed(asked, read_certified_images(asked, labelled=False), on_remark, progress)


def smooth_as_certified(
    terms: EvasionParameters,
    images: Path,
    *,
    weights: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_remark: Callable[[str], None] = lambda remark: None,
    progress: Show | bool | None = None,
) -> list[VotedImage]:
    """The same with the settings of a certificate at test time, whose model and denoiser are found under the names that
    they had, and compared with those that voted; classes are called as there. Raises InputError for others.
    """
    local = terms.local_smoothing
    asked = CertifyOptions(
        threat=EVASION,
        model=terms.model.id,
        weights=weights,
        test=images,
        device=device,
        workers=workers,
        sigma=terms.sigma,
        runs=terms.runs,
        alpha=terms.alpha,
        bound=terms.bound,
        local_smoothing=None if local is None else f"{local.draws}:{local.sigma}",
        denoiser=terms.denoiser.id,
        method=terms.denoiser.method,
    )
    certified = read_certified_images(asked, labelled=False)
    model, classes = certified.model, tuple(terms.classes)
    found = model.digest, model.recipe.as_dict(), model.size, model.classes or classes, model.outputs
    for what, id, same in (
        ("model", terms.model.id, found == (terms.model.digest, terms.recipe, terms.size, classes, len(classes))),
        ("denoiser", terms.denoiser.id, certified.denoiser.digests() == terms.denoiser.digests),
    ):
        if not same:
            raise InputError(
                f"the {what} {id!r} is not the one of the certificate",
                "restore its files, or give the model in place of the certificate, with --smooth and --sigma",
            )
    named = replace(certified, points=replace(certified.points, classes=classes))  # a torchvision model has no names
    return _smoothed(asked, named, on_remark, progress)


def _smoothed(
    asked: CertifyOptions,
    certified: CertifiedImages,
    on_remark: Callable[[str], None],
    progress: Show | bool | None,
) -> list[VotedImage]:
    for remark in certified.remarks:
        on_remark(remark)
    parameters = make_test_time_parameters(certified, asked)
    check_parameters(parameters)
    key = draw_key()
    runs = TestTimeRuns(
        make_test_time_settings(certified, asked, parameters), key, PointData.of(certified.points), parameters.runs
    )
    votes, pace = np.empty((parameters.runs, parameters.points), np.int32), Pace()
    with shown_as_asked(progress) as tell:
        for done in range(0, parameters.runs, runs.at_once):
            numbers = range(done + 1, min(done + runs.at_once, parameters.runs) + 1)
            votes[done : numbers[-1]] = [ballot for ballot, _ in runs.results(numbers)]
            tell(Progress(numbers[-1], parameters.runs, "runs", pace.seconds_left(numbers[-1], parameters.runs)))
    found = build(Votes(votes, None, None, structs.replace(parameters, key_commitment=commitment(key))), "")
    return [
        VotedImage(
            name=point["name"],
            predicted=None if point["class"] < 0 else parameters.classes[point["class"]],
            certified_radius=point["certified_radius"],
            votes=point["k_a"],
            runs=parameters.runs - parameters.selection_runs,
            whole={},
        )
        for point in found["points"]
    ]
