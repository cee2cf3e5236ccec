"""The terms of a job: everything that is fixed before run 1, as plain JSON values."""

from __future__ import annotations

import json
import shlex
from typing import Any

from dpclean import __version__
from dpclean.certificate.bounds import shortest
from dpclean.certificate.parameters import FORMAT, ORDER, check_form, noise_distances, selecting
from dpclean.certify.data import inputs_digest
from dpclean.certify.method import choose_init, choose_recipe, image_size
from dpclean.certify.options import Options
from dpclean.certify.subject import Subject, described, known_of
from dpclean.certify.trainer_command import program_files

# what is found out when a job begins; workers compare it, not the command that starts them
FOUND = ("attempt", "engine", "key_commitment", "tool")


def make_terms(subject: Subject, options: Options) -> dict[str, Any]:
    """The terms of a job, less what FOUND names. Decimal strings are exact, or rounded up (tau1, tau)."""
    origin = subject.origin
    sigma = shortest("sigma", origin.sigma)
    recipe = None if options.trainer else choose_recipe(subject, options)
    values = subject.values
    if options.threat == "noised-test":
        values += max(image.size for image in subject.points.pixels)
    return {
        "format": FORMAT,
        "origin": "dpclean",
        "runs": options.runs,
        "selection_runs": selecting(options.bound, options.runs),
        "points": len(subject.points),
        "classes": list(subject.classes),
        "sigma": sigma,
        "alpha": shortest("alpha", options.alpha),
        "bound": options.bound,
        "family": options.family,
        "threat": options.threat,
        "values": values,
        **noise_distances(sigma, values),
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
        "inputs_digest": inputs_digest(subject.train, subject.points),
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
        "run_timeout": options.run_timeout if options.trainer else None,
        "decode": {
            "alpha_policy": origin.read_options.alpha_policy,
            "follow_links": origin.read_options.follow_links,
            "max_pixels": origin.read_options.max_pixels,
            "layout": origin.read_options.layout,
            "limit": origin.limit,
            **({} if origin.sample is None else {"sample": origin.sample}),
        },
        "keep_models": options.keep_models,
        "exploratory": False,
    }


def with_found(terms: dict[str, Any], engine: dict[str, Any], key_commitment: str, attempt: int) -> dict[str, Any]:
    """The whole terms of a job that begins now; attempt: how many jobs were begun in its place, this one included."""
    found = {"tool": f"dpclean {__version__}", "engine": engine, "key_commitment": key_commitment, "attempt": attempt}
    whole: dict[str, Any] = json.loads(json.dumps({**terms, **found}))  # as whoever reads the votes will have them
    check_form(whole)
    return whole


def changes(begun: dict[str, Any], asked: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, begun, asked) of the terms in which two jobs differ; `anytime` leaves the number of runs open."""
    skipped = {*FOUND, *(("runs",) if begun["bound"] == asked["bound"] == "anytime" else ())}
    names = [name for name in {**begun, **asked} if name not in skipped]
    return [(name, begun.get(name), asked.get(name)) for name in names if begun.get(name) != asked.get(name)]
