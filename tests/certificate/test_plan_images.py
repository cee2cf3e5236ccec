"""Planning for whole images: the shares and runs that are told are those that the certificate's check lets through."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.plan_images import ATTACKS, plan_images
from dpclean.certificate.whole_images import WORD, word_of
from dpclean.cli import run
from dpclean.errors import UsageError


def claimed(bound: str, share: int, runs: int, k_a: int, k_b: int, of: int = 5000) -> dict[str, int]:
    rule = find_bound(bound)
    counted = runs - rule.selection_runs(runs)
    made = rule.claim(ClaimSettings(counted, Fraction("0.001"), Fraction(0), Fraction(0), share, of), k_a, k_b)
    return made.whole.as_json() if made is not None and made.whole is not None else {}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_largest_share_is_the_largest(bound: str, attack: str) -> None:
    found = plan_images(25, 5000, attack=attack, bound=bound)
    assert found.asked is not None and found.asked == found.shares[0] and found.why_impossible is None
    word = word_of(found.asked.share)
    counted = 1000 - find_bound(bound).selection_runs(1000)
    assert claimed(bound, word, 1000, counted, 0)[f"images_{attack}"] >= 25
    assert claimed(bound, word + word // 1000, 1000, counted, 0).get(f"images_{attack}", 0) < 25, "4 digits are kept"
    assert found.reach == claimed(bound, word, 1000, counted, 0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_least_votes_and_runs_are_the_least(bound: str) -> None:
    found = plan_images(25, 5000, bound=bound, subsample="0.01")
    word, counted = word_of("0.01"), 1000 - find_bound(bound).selection_runs(1000)
    assert found.asked is not None and found.asked.votes is not None and found.least_runs is not None
    votes = found.asked.votes
    assert claimed(bound, word, 1000, votes, counted - votes)["images_changed"] >= 25
    assert claimed(bound, word, 1000, votes - 1, counted - votes + 1).get("images_changed", 0) < 25

    def reached(runs: int) -> int:
        counted = runs - find_bound(bound).selection_runs(runs)
        return claimed(bound, word, runs, counted, 0).get("images_changed", 0)

    assert reached(found.least_runs) >= 25 > reached(found.least_runs - 1)


@pytest.mark.parametrize(
    ("bound", "pa", "pb"), [("union", 0.8, None), ("multiclass", 0.8, None), ("multiclass", 0.7, 0.1)]
)
def test_the_share_is_reached_with_the_power_that_was_asked_for(bound: str, pa: float, pb: float | None) -> None:
    found = plan_images(25, 5000, bound=bound, pa=str(pa), pb=None if pb is None else str(pb), power="0.8")
    assert found.asked is not None
    second = 1 - pa if pb is None else pb
    shares = [pa, second] + [(1 - pa - second) / 8] * 8
    counts = np.random.default_rng(0).multinomial(1000, np.abs(shares), size=400)
    word = word_of(found.asked.share)
    reached = [claimed(bound, word, 1000, int(k[0]), int(k[1:].max())).get("images_changed", 0) >= 25 for k in counts]
    assert np.mean(reached) > 0.76


def test_what_no_share_does_says_why() -> None:
    few = plan_images(90, 100)
    assert few.asked is None and few.why_impossible is not None and "images on average" in few.why_impossible
    large = plan_images(25, 5000, subsample="0.1")
    assert large.asked is not None and large.asked.votes is None and large.why_impossible is not None
    assert large.why_impossible.endswith("is 0.02679")
    tie = plan_images(25, 5000, pa="0.51", runs=100)
    assert tie.asked is None and "which class is the first" in str(tie.why_impossible)


def test_members_parts_and_time() -> None:
    found = plan_images(25, 5000, subsample="0.01", seconds_per_run=6, workers=2, points=50)
    assert found.asked is not None and (found.asked.members, found.asked.spread) == (50, 7.0)
    assert (found.seconds, found.bytes) == (3000, 200_000)
    assert found.parts == 101 and plan_images(25, 5000, attack="inserted").parts == 51


REFUSED = [
    ({"images": 0}, "images"), ({"images": 2**32}, "images"), ({"of": 0}, "of"), ({"of": 24}, "25 of 24"),
    ({"attack": "all"}, "inserted, changed"), ({"subsample": "0"}, "share"), ({"subsample": "1"}, "share"),
    ({"runs": 0}, "runs"), ({"runs": 15}, "at least 16 runs"), ({"alpha": "0"}, "alpha"), ({"pb": "0.1"}, "--pa"),
    ({"power": "1"}, "power"), ({"bound": "magic"}, "bound"), ({"family": "each"}, "family"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_what_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        plan_images(**{"images": 25, "of": 5000, **change})  # type: ignore[arg-type]
    assert words in refusal.value.message + refusal.value.remedy


def test_images_that_are_missing_may_be_more_than_there_are() -> None:
    found = plan_images(200, 100, attack="missing", subsample="0.001")
    assert found.reach is not None and found.reach["images_inserted"] == 100 and found.reach["images_missing"] > 200


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--images", "25", "--of", "5000", "--seconds-per-run", "7.2"]) == 0
    said = capsys.readouterr().out
    for words in ("any 25 of 5,000 images were changed", "--subsample 0.02679 is the largest", "1,000 of 1,000",
                  "156 put in, 25 changed or relabelled, 25 taken away", "Time: 2.0 hours", "101 parts",
                  "more images with the share"):  # fmt: skip
        assert words in said, words
    assert run(["plan", "--images", "25", "--of", "5000", "--bound", "cohen"]) == 0
    assert "900 of 900" in capsys.readouterr().out  # a tenth of the runs selects, and is not counted
    assert run(["plan", "--images", "60", "--of", "100", "--attack", "inserted"]) == 0
    assert "not possible" in capsys.readouterr().out
    assert run(["plan", "--images", "25", "--of", "5000", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "plan" and result["asked"]["members"] == 134 and int(word_of("0.02679")) < WORD


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--images", "5"], "belong together"),
        (["--of", "5"], "belong together"),
        (["--sigma", "0.25"], "--radius and --sigma"),
        ([], "--images and --of"),
        (["--images", "5", "--of", "9", "--radius", "1"], "--radius has no meaning with --images"),
        (["--radius", "1", "--sigma", "1", "--attack", "missing"], "--attack has a meaning with --images only"),
    ],
)
def test_options_that_do_not_belong_together(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *line]) == 2
    assert words in capsys.readouterr().err
