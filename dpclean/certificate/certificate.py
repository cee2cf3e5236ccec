"""The certificate: a pure function of the votes and of the terms that were fixed before run 1."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from typing import Any

from dpclean.certificate.accuracy import (
    accuracy_by_images,
    accuracy_certificate,
    accuracy_with_images,
    certified_accuracy,
    why_not,
)
from dpclean.certificate.assumptions import assumptions, not_covered
from dpclean.certificate.attack_sizes import attack_sizes
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import BESIDE, NO_RADIUS, Proof, no_claim
from dpclean.certificate.elections import elections
from dpclean.certificate.files import Published
from dpclean.certificate.limits import ceiling, check_parameters
from dpclean.certificate.parameters import FORMAT, Partitions, canonical, parts_of, settings_of
from dpclean.certificate.partitions import Parts
from dpclean.certificate.votes import ABSTAIN, VoteCounts, Votes, count_votes, job_id

Json = dict[str, Any]


def build(votes: Votes, votes_sha256: str, published: Published | None = None) -> Json:
    """The whole certificate; the same votes, terms and proofs give the same bytes. Raises what check_parameters does.

    published: the proofs of amplified radii that are to be tested; without, they are searched for.
    """
    check_parameters(votes.parameters)
    counted = count_votes(votes)
    return _assemble(votes, votes_sha256, counted, claimed_points(votes, counted, published), published)


def claimed_points(votes: Votes, counted: VoteCounts, published: Published | None = None) -> list[Json]:
    """One object a point with the largest claim that its counts, and the proofs that are published, allow."""
    if (partitions := parts_of(votes.parameters)) is not None:
        return _elected_points(votes, partitions)
    settings, bound = settings_of(votes.parameters), find_bound(votes.parameters.bound)

    @cache
    def claim(k_a: int, k_b: int, proofs: tuple[Proof, ...] | None) -> Json | None:
        made = bound.claim(settings, k_a, k_b, proofs)
        return made.as_json(settings) if made is not None and made.covers_anything else None

    def proofs(index: int) -> tuple[Proof, ...] | None:
        if published is None:
            return None
        beside = (
            published.proof("points", index, BESIDE, number, "witness") for number in range(len(settings.with_images))
        )
        return published.proof("points", index, "witness"), *beside

    names, labels = votes.parameters.point_names, known_labels(votes)
    columns = zip(counted.winner.tolist(), counted.k_a.tolist(), counted.k_b.tolist(), strict=True)
    points = []
    for index, (winner, k_a, k_b) in enumerate(columns):
        made = claim(k_a, k_b, proofs(index)) if winner >= 0 else None
        points.append(
            {
                "index": index,
                "name": names[index],
                "label": labels[index],
                "class": ABSTAIN if made is None else winner,
                "k_a": k_a,
                "k_b": k_b,
                **(made or no_claim(settings)),
            }
        )
    return points


def _elected_points(votes: Votes, partitions: Partitions) -> list[Json]:
    """The same where each run trained on one part: what is claimed is the election's own."""
    names, labels = votes.parameters.point_names, known_labels(votes)
    points = []
    for index, found in enumerate(elections(votes.votes, votes.rankings, len(votes.parameters.classes))):
        held = max(0, found.withstands)
        points.append(
            {
                "index": index,
                "name": names[index],
                "label": labels[index],
                "class": found.winner if held else ABSTAIN,
                "k_a": found.votes,
                "k_b": found.next_votes,
                "pa_lower": None,
                "pb_upper": None,
                "certified_radius": NO_RADIUS,
                "budget": 0,
                **Parts(held, partitions.by).as_json(),
            }
        )
    return points


def known_labels(votes: Votes) -> list[int | None]:
    """The label of each point, None where it is not known."""
    if votes.labels is None:
        return [None] * votes.parameters.points
    return [label if label >= 0 else None for label in votes.labels.tolist()]


def _assemble(
    votes: Votes, votes_sha256: str, counted: VoteCounts, points: list[Json], published: Published | None
) -> Json:
    """The certificate around its points: everything that follows from them and from the votes."""
    parameters = votes.parameters
    highest = ceiling(parameters)
    claimed = sorted((point["certified_radius"] for point in points if point["class"] != ABSTAIN), key=Fraction)
    by_images = accuracy_by_images(parameters, points)
    with_images = accuracy_with_images(parameters, points, highest)
    absent = why_not(parameters, votes.labels)
    found = None
    if absent is None:
        assert votes.labels is not None
        found = accuracy_certificate(parameters, votes.labels, counted, published)
    return {
        "format": FORMAT,
        "kind": "exploratory" if parameters.exploratory else "certificate",
        "tool": parameters.tool,
        "job": job_id(parameters),
        "votes_sha256": votes_sha256,
        "terms": json.loads(canonical(parameters, without=("point_names",))),
        "summary": {
            "points": len(points),
            "certified": len(claimed),
            "abstained": len(points) - len(claimed),
            "failed_runs": int((votes.votes == ABSTAIN).all(axis=1).sum()),
            "ceiling": highest,
            "largest_radius": claimed[-1] if claimed else NO_RADIUS,
            "median_radius": claimed[(len(claimed) - 1) // 2] if claimed else NO_RADIUS,  # of those with one
        },
        "points": points,
        "accuracy": certified_accuracy(parameters, points, highest),
        **({} if by_images is None else {"accuracy_by_images": by_images}),
        **({} if with_images is None else {"accuracy_with_images": with_images}),
        "accuracy_certificate": found,
        "accuracy_certificate_absent": absent,
        "attack_sizes": attack_sizes(parameters, max((point["budget"] for point in points), default=0)),
        "assumptions": assumptions(parameters),
        "not_covered": not_covered(parameters),
    }
