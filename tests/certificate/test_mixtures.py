"""Asking a certificate for a mixture of attacks: what is told follows from its votes and from nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.certificate import build
from dpclean.certificate.mixtures import Mixture, Withstood, withstood
from dpclean.certificate.whole_images import WORD, Edits
from dpclean.cli import run
from dpclean.errors import UsageError
from tests.certificate.ballots import counted, hand_over, of_parts
from tests.certificate.test_share_certificates import COLUMNS, LABELS, made


def asked(votes: Any, **mixture: Any) -> Withstood:
    return withstood(votes.parameters, build(votes, "")["points"], Mixture(**mixture))


@pytest.mark.parametrize("bound", BOUNDS)
def test_one_kind_alone_holds_for_as_many_as_are_published(bound: str) -> None:
    votes = made(bound=bound)
    points = build(votes, "")["points"]
    claimed = [point for point in points if point["class"] >= 0]
    for kind in ("inserted", "changed", "missing"):
        for most in sorted({point[f"images_{kind}"] for point in claimed}):
            for images in (most, most + 1):
                found = withstood(votes.parameters, points, Mixture(**{kind: min(images, 100)}))
                held = [point for point in claimed if point[f"images_{kind}"] >= min(images, 100)]
                assert found.held == len(held)
                assert found.right == sum(point["class"] == point["label"] for point in held)
    for place, images in enumerate((1, 5)):
        for point in claimed:
            radius = Fraction(point["with_images"][place]["certified_radius"])
            for asked_for in (radius, radius + Fraction(1, 100)):
                found = withstood(votes.parameters, points, Mixture(changed=images, radius=f"{float(asked_for):.6f}"))
                assert found.held == sum(
                    Fraction(other["with_images"][place]["certified_radius"]) >= asked_for
                    and other["images_changed"] >= images
                    for other in claimed
                )


def test_what_verify_has_found_proved_holds_where_a_search_finds_a_little_less() -> None:
    """Floats propose witnesses: of another machine they may be better by a step of the last decimal."""
    votes = made(bound="multiclass")
    points = build(votes, "")["points"]
    best = max(points, key=lambda point: Fraction(point["with_images"][1]["certified_radius"]))["with_images"][1]
    best["certified_radius"] = f"{float(best['certified_radius']) + 0.001:.6f}"
    for mixture in ({"changed": 5}, {"inserted": 3, "missing": 5}):
        assert withstood(votes.parameters, points, Mixture(**mixture, radius=best["certified_radius"])).held == 1
    assert withstood(votes.parameters, points, Mixture(changed=6, radius=best["certified_radius"])).held == 0


def test_mixtures_are_those_of_the_theorem() -> None:
    """Put in: of D; taken away: of what would have been; changed: of both. And no more than each by itself."""
    votes = counted({0: 1000}, runs=1000, subsample=WORD // 50, sigma="0", labels=[0])
    point = build(votes, "")["points"][0]
    low, high = (Fraction(point[name]) for name in ("pa_lower", "pb_upper"))
    rho = 1 - Fraction(WORD // 50, WORD)
    held = 0
    for inserted, changed, missing in ((90, 0, 10), (50, 5, 5), (50, 10, 10), (10, 20, 3), (0, 30, 2), (0, 30, 4)):
        there, here = rho ** (inserted + changed), rho ** (missing + changed)
        expected = here * (2 - (1 - low + high) / there) > 1
        assert asked(votes, inserted=inserted, changed=changed, missing=missing).held == expected
        held += expected
    assert 0 < held < 6


@pytest.mark.parametrize(
    ("edits", "best"),
    [
        (Edits(), 12.39),
        (Edits.changed(5), 11.05),
        (Edits.changed(10), 9.56),
        (Edits.changed(25), 3.54),
        (Edits(50), 8.76),
    ],
)
def test_radii_beside_images_are_the_known_ones(edits: Edits, best: float) -> None:
    settings = ClaimSettings(1000, Fraction("0.001"), Fraction(1), Fraction(0), WORD // 50, images=5000)
    bound, low, high = find_bound("multiclass"), Fraction("0.95"), Fraction("0.03")
    assert bound.withstands(settings, 0, low, high, edits, Fraction(best) - Fraction(1, 50))
    assert not bound.withstands(settings, 0, low, high, edits, Fraction(best) + Fraction(1, 50))
    joint = replace(settings, noises_points=True)
    assert not bound.withstands(joint, 0, low, high, edits, Fraction(2)), "the test image is in every run"


def test_a_radius_can_be_asked_of_every_certificate() -> None:
    votes = counted(*COLUMNS, runs=200, labels=LABELS)
    points = build(votes, "")["points"]
    radii = [Fraction(point["certified_radius"]) for point in points]
    found = asked(votes, radius="0.3")
    assert found.held == sum(radius >= Fraction("0.3") for radius in radii) > 0
    assert "all training images by less than 0.3 together" in found.statement[0]


@pytest.mark.parametrize(
    ("terms", "mixture"),
    [
        ({}, {"inserted": 1}),
        ({"subsample": WORD // 50, "sigma": "0"}, {"changed": 1, "radius": "0.1"}),
        ({"subsample": WORD // 50}, {"inserted": 60, "changed": 41}),
        ({}, {"missing": -1}),
        ({}, {"missing": WORD}),
        ({}, {"radius": "-1"}),
        ({}, {"radius": "much"}),
    ],
    ids=str,
)
def test_what_nothing_can_be_said_about_is_refused(terms: dict[str, Any], mixture: dict[str, Any]) -> None:
    votes = counted(*COLUMNS, runs=200, labels=LABELS, **terms)
    with pytest.raises(UsageError):
        asked(votes, **mixture)


def test_the_command_tells_what_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hand_over(tmp_path / "certificate", made())
    question = ["--inserted", "20", "--changed", "2", "--radius", "0.10"]
    assert run(["verify", str(folder), *question]) == 0
    said = capsys.readouterr().out
    assert (
        "If an attacker put in up to 20 training images, changed or relabelled at will up to 2 training images and"
        " moved all others by less than 0.1 together (Euclidean, pixels from 0 to 1), then without that" in said
    )
    assert "false with a probability of at most 0.001" in said and "Right are 3 of 5 labelled points, 60.0 %" in said
    assert run(["verify", str(folder), *question, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["withstood"]
    assert (told["held"], told["right"], told["labelled"], told["radius"]) == (3, 3, 5, "0.1")
    assert Fraction(told["lower"]) < Fraction(told["accuracy"]) and told["confidence"] == "0.950000"
    assert run(["verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["withstood"] is None
    assert run(["verify", str(folder), "--inserted", "101"]) == 2


def test_without_labels_and_where_nothing_is_proved_less_is_told() -> None:
    unlabelled = asked(counted(*COLUMNS, runs=200, subsample=WORD // 50), changed=1)
    assert (unlabelled.labelled, unlabelled.right, unlabelled.accuracy, unlabelled.lower) == (0, None, None, None)
    explored = asked(made(exploratory=True), changed=1)
    assert explored.lower is None and explored.statement[0].startswith("Nothing is proved")
    together = asked(made(family="all"), changed=1)
    assert "any of these" in " ".join(together.statement)


def test_parts_count_a_change_twice_as_it_may_touch_two() -> None:
    rankings = [[[0, 1, 2]]] * 15 + [[[1, 0, 2]]] * 4
    votes = of_parts(rankings, labels=[0])
    most = build(votes, "")["points"][0]["images_inserted"]
    assert most == 5
    assert asked(votes, inserted=1, changed=1, missing=2).held == 1
    assert asked(votes, inserted=1, changed=2, missing=1).held == 0
    assert "without any probability" in asked(votes, changed=2).statement[1]
    with pytest.raises(UsageError):
        asked(votes, radius="0.1")
