"""The terms of a job: everything that is fixed before run 1, as plain JSON values."""

from __future__ import annotations

import shlex
from decimal import ROUND_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any

from dpclean import __version__
from dpclean.certify.certificate import selecting
from dpclean.certify.method import choose_init, choose_recipe, image_size
from dpclean.certify.options import Options
from dpclean.certify.subject import Subject, described, known_of
from dpclean.certify.trainer_command import program_files
from dpclean.noise.table import table

TAU_DIGITS = 20
ORDER = ["digest of the data fixed", "key drawn"]
# what a process finds out for itself; workers compare it, not the command that starts them
FOUND = ("engine", "key_commitment", "tool")


def make_terms(subject: Subject, options: Options) -> dict[str, Any]:
    """The terms of a job, less what FOUND names. Decimal strings are exact, or rounded up (tau1, tau).

    tau1 and tau: docs/certificates.md, "Imperfect noise".
    """
    origin = subject.origin
    sigma = float(origin.sigma)
    tau1 = table(sigma).total_variation if sigma else Fraction(0)
    recipe = None if options.trainer else choose_recipe(subject, options)
    values = subject.values
    if options.threat == "noised-test":
        values += max(image.size for image in subject.points.pixels)
    return {
        "format": 1,
        "origin": "dpclean",
        "runs": options.runs,
        "selection_runs": selecting(options.bound, options.runs),
        "points": len(subject.points),
        "classes": list(subject.classes),
        "sigma": origin.sigma,
        "alpha": options.alpha,
        "bound": options.bound,
        "family": options.family,
        "threat": options.threat,
        "values": values,
        "tau1": rounded_up(tau1),
        "tau": rounded_up(values * tau1),
        "seed": options.seed,
        "point_names": subject.points.names,
        "point_source": subject.point_source,
        "points_digest": subject.points_digest,
        "points_in_training": subject.points_in_training,
        "raw": {
            "pixel_digest": subject.raw_digest,
            "certified_digest": subject.train_digest,
            **described(subject.train),
            "kind": subject.train.kind,
        },
        "order": ORDER,
        "denoiser": {
            "id": subject.denoiser.id,
            "digests": subject.denoiser.digests(),
            "method": origin.method,
            "ancestry": known_of(subject.denoiser.ancestry(), subject),
        },
        "recipe": None if recipe is None else recipe.as_dict(),
        "size": None if recipe is None else image_size(subject, recipe),
        "init": None if recipe is None else choose_init(subject, options, recipe),
        "trainer": shlex.join(shlex.split(options.trainer)) if options.trainer else None,
        "trainer_files": program_files(options.trainer) if options.trainer else None,
        "decode": {
            "alpha_policy": origin.read_options.alpha_policy,
            "follow_links": origin.read_options.follow_links,
            "max_pixels": origin.read_options.max_pixels,
            "layout": origin.read_options.layout,
            "limit": origin.limit,
        },
        "keep_models": options.keep_models,
        "exploratory": False,
    }


def rounded_up(value: Fraction) -> str:
    """A decimal of 20 digits that is at least the value."""
    with localcontext(prec=TAU_DIGITS, rounding=ROUND_UP):
        return format(Decimal(value.numerator) / Decimal(value.denominator), "f")


def with_found(terms: dict[str, Any], engine: dict[str, Any], key_commitment: str) -> dict[str, Any]:
    """The whole terms of a job that begins now."""
    return {**terms, "tool": f"dpclean {__version__}", "engine": engine, "key_commitment": key_commitment}


def changes(begun: dict[str, Any], asked: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, begun, asked) of the terms in which two jobs differ; `anytime` leaves the number of runs open."""
    skipped = {*FOUND, *(("runs",) if begun["bound"] == asked["bound"] == "anytime" else ())}
    names = [name for name in {**begun, **asked} if name not in skipped]
    return [(name, begun.get(name), asked.get(name)) for name in names if begun.get(name) != asked.get(name)]
