"""Votes to the folder that is handed over: the votes themselves, the certificate, its curve and its page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.assumptions import warnings
from dpclean.certificate.certificate import build
from dpclean.certificate.files import CERTIFICATE_NAME, TSV_NAME, dump, parameters_in, read, tsv
from dpclean.certificate.headline import headline, members
from dpclean.certificate.parameters import OwnParameters, counts_images, parts_of
from dpclean.certificate.votes import VOTES_NAME, Votes, votes_bytes
from dpclean.certificate_page.curve import main_curve
from dpclean.certificate_page.page import Example, report_html
from dpclean.certify.results import CertifyResult
from dpclean.jobs.durable import write_durably
from dpclean.jobs.job import holds
from dpclean.report import plot

MARKS = (VOTES_NAME, CERTIFICATE_NAME)
EXAMPLES_OF_EACH = 12


def write_outputs(folder: Path, votes: Votes, pixels: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Write a certificate into a folder; pixels are those of the points, none where they are unknown."""
    data = votes_bytes(votes)
    certificate: dict[str, Any] = build(votes, hashlib.sha256(data).hexdigest())
    files = {
        VOTES_NAME: data,
        CERTIFICATE_NAME: dump(certificate),
        TSV_NAME: tsv(certificate).encode("utf-8", "surrogateescape"),
        "curve.svg": plot.svg(main_curve(certificate)).encode(),
        "curve.png": plot.png(main_curve(certificate)),
        "report.html": report_html(certificate, _examples(certificate, pixels)).encode(),
    }
    for name, content in files.items():
        write_durably(folder / name, content)
    return certificate


def _examples(certificate: dict[str, Any], pixels: Sequence[NDArray[np.uint8]]) -> list[Example]:
    """Points spread over the radii that were certified, and the first ones that abstain."""
    if not pixels:
        return []
    points = certificate["points"]
    certified = sorted(
        (p for p in points if p["class"] >= 0),
        key=lambda p: (-float(p["certified_radius"]), -p.get("images_inserted", 0), p["index"]),
    )
    spread = np.linspace(0, len(certified) - 1, min(EXAMPLES_OF_EACH, len(certified))).round().astype(int)
    abstaining = [p for p in points if p["class"] < 0][:EXAMPLES_OF_EACH]
    chosen = [certified[place] for place in spread] + abstaining
    return [Example(point["index"], pixels[point["index"]]) for point in chosen]


def holds_certificate(out: Path) -> bool:
    """Whether OUT is a certificate; False where it is free. Raises ConflictError where it is something else."""
    return holds(out, MARKS, "certify")


def read_result(
    out: Path, *, runs_done_now: int = 0, already_complete: bool = False, seconds: float = 0.0
) -> CertifyResult:
    """What a published certificate says, in a few numbers."""
    certificate = read(out / CERTIFICATE_NAME)
    summary, parameters, points = certificate["summary"], parameters_in(certificate), certificate["points"]
    labelled = [p for p in points if p["label"] is not None]
    return CertifyResult(
        out=str(out),
        kind=certificate["kind"],
        job=certificate["job"],
        attempt=parameters.attempt if isinstance(parameters, OwnParameters) else None,
        threat=parameters.threat,
        runs=parameters.runs,
        runs_done_now=runs_done_now,
        failed=summary["failed_runs"],
        points=summary["points"],
        certified=summary["certified"],
        abstained=summary["abstained"],
        correct=sum(p["class"] == p["label"] for p in labelled) if labelled else None,
        labelled=len(labelled),
        largest_radius=summary["largest_radius"],
        median_radius=summary["median_radius"],
        ceiling=summary["ceiling"],
        already_complete=already_complete,
        seconds=round(seconds, 3),
        warnings=warnings(parameters),
        images=parameters.raw.images if counts_images(parameters) and parameters.raw else None,
        partitions=partitions.parts if (partitions := parts_of(parameters)) else None,
        accuracy_by_images=certificate.get("accuracy_by_images"),
        headline=headline(certificate),
        members=members(certificate),
    )
