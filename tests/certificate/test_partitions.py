"""Elections of models, against known answers that share no code with dpclean and against every possible attack."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dpclean.certificate.certificate import build
from dpclean.certificate.elections import NO_RANKING, Election, plurality, runoff
from dpclean.certificate.parameters import FormError, check_consistent, from_json
from dpclean.certificate.partitions import part_of
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import Votes, first_of, votes_bytes
from dpclean.certificate_page.curve import main_curve
from dpclean.certificate_page.page import report_html
from dpclean.errors import DifferenceError
from tests.certificate.ballots import hand_over, of_parts, recorded, terms

KNOWN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "whole_images.json").read_text())


def by_plurality(rankings: NDArray[np.uint16]) -> Election:
    return plurality(np.where(rankings[:, 0] == NO_RANKING, -1, rankings[:, 0].astype(np.int32)), rankings.shape[1])


RULES = (by_plurality, runoff)


def as_array(rankings: list[list[int] | None], classes: int) -> NDArray[np.uint16]:
    return np.array([[NO_RANKING] * classes if row is None else row for row in rankings], np.uint16)


def test_plurality_takes_no_more_for_many_classes() -> None:
    votes, many = np.array([7, 7, 7, 3, -1], np.int32), 10**12
    assert plurality(votes, many) == Election(7, 0, 3, 1)
    assert plurality(np.zeros(5, np.int32), many) == Election(0, 2, 5, 0)
    assert plurality(np.full(4, 9, np.int32), many) == Election(9, 1, 4, 0)  # classes before it need one vote less


@pytest.mark.parametrize("case", KNOWN["partition"], ids=lambda case: f"{case['classes']}-{len(case['rankings'])}")
def test_elections_are_the_known_ones(case: dict[str, Any]) -> None:
    rankings = as_array(case["rankings"], case["classes"])
    for rule, known in ((by_plurality, case["plurality"]), (runoff, case["runoff"])):
        made = rule(rankings)
        assert [made.winner, made.withstands] == known


@pytest.mark.parametrize("case", KNOWN["parts"])
def test_parts_are_the_known_ones(case: dict[str, Any]) -> None:
    assert part_of(bytes.fromhex(case["word_hex"]), case["parts"]) == case["part"]


def attacked(rankings: NDArray[np.uint16], touched: int) -> list[NDArray[np.uint16]]:
    """Every election that differs in so many models."""
    models, classes = rankings.shape
    rows = [[NO_RANKING] * classes, *map(list, itertools.permutations(range(classes)))]
    found = []
    for which in itertools.combinations(range(models), touched):
        for new in itertools.product(rows, repeat=touched):
            changed = rankings.copy()
            changed[list(which)] = new
            found.append(changed)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_attack_on_so_many_parts_moves_the_winner_and_one_on_one_more_does(rule: Any) -> None:
    rng = random.Random(3)
    broken = 0
    for _ in range(60):
        classes, models = rng.choice(((2, 5), (3, 4), (3, 5), (4, 3)))
        rows = [rng.sample(range(classes), classes) if rng.random() < 0.9 else None for _ in range(models)]
        made = rule(as_array(rows, classes))
        if not 0 <= made.withstands <= 2:
            continue
        for touched in range(1, made.withstands + 1):
            assert all(rule(other).winner == made.winner for other in attacked(as_array(rows, classes), touched))
        if made.withstands < 2 and made.withstands < models:
            assert any(rule(o).winner != made.winner for o in attacked(as_array(rows, classes), made.withstands + 1))
            broken += 1
    assert broken > 20


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_where_nobody_votes_nothing_is_withstood(rule: Any) -> None:
    assert rule(as_array([None, None, None], 3)).withstands < 0


# -------------------------------------------------------------------------------------------- from votes to a claim


def some(parts: int = 30, points: int = 8, classes: int = 4, seed: int = 2) -> NDArray[np.uint16]:
    """Rankings [parts, points, classes] of points of every difficulty; some models rank nothing."""
    rng = np.random.default_rng(seed)
    leans = rng.random((points, classes)) * np.linspace(0, 8, points)[:, None]
    ranked = np.argsort(-(leans + rng.random((parts, points, classes)) * 4), axis=2).astype(np.uint16)
    ranked[rng.random((parts, points)) < 0.05] = NO_RANKING
    return ranked


@pytest.mark.parametrize("election", ["runoff", "plurality"])
@pytest.mark.parametrize("by", ["name", "content"])
def test_a_point_claims_what_its_election_withstands(tmp_path: Path, election: str, by: str) -> None:
    ranked = some()
    ranked[:, 5] = NO_RANKING
    votes = of_parts(ranked, np.zeros(8), bound=election, partitions={"parts": 30, "by": by})
    folder = hand_over(tmp_path / "c", votes)
    points, seen = json.loads((folder / "certificate.json").read_text())["points"], set()
    for number, point in enumerate(points):
        made = (runoff if election == "runoff" else by_plurality)(ranked[:, number])
        held = max(0, made.withstands)
        seen.add(held > 0)
        assert point["class"] == (made.winner if held else -1)
        assert (point["images_inserted"], point["images_missing"], point["images_changed"]) == (held, held, held // 2)
        assert point.get("images_changed_in_place") == (held if by == "name" else None)
    assert seen == {True, False}
    assert verify(folder).certified == sum(point["class"] >= 0 for point in points)


@pytest.mark.parametrize(("sigma", "noise"), [("0", False), ("0.25", True)])
def test_what_is_said_does_not_speak_of_chance_nor_of_noise_where_there_is_none(
    tmp_path: Path, sigma: str, noise: bool
) -> None:
    votes = of_parts(some(), np.zeros(8), sigma=sigma)
    certificate, folder = build(votes, "77" * 32), hand_over(tmp_path / "c", votes)
    page = report_html(certificate, [])
    page = page.partition("All settings")[0] + page.partition("What the words mean")[2]  # between them: the terms
    said = " ".join([*certificate["assumptions"], *certificate["not_covered"], *verify(folder).issuers_word, page])
    for word in ("alpha", "probabilit", "chance", "gaussian", "tau ", "the bound", "risk", "ceiling", "multiclass"):
        assert word not in said.lower(), word
    assert ("nois" in said.lower().replace("denois", "")) == noise


def test_what_a_program_draws_comes_from_no_key() -> None:
    own, program = (
        " ".join(build(of_parts(some(), np.zeros(8), trainer=trainer), "77" * 32)["assumptions"])
        for trainer in (None, "python x.py")
    )
    assert "random numbers come from a key" in own and "comes from no key" not in own
    assert "random numbers come from a key" not in program
    assert "comes from no key: it draws the same for the same images" in program


def test_the_curve_has_one_line_for_what_holds_alike_and_room_for_its_name() -> None:
    lines = main_curve(build(of_parts(some(), np.zeros(8)), "77" * 32)).lines
    assert [line.label for line in lines if line.role != "lower"] == ["put in, taken away, in place", "changed"]
    assert max(len(line.label) for line in lines) < 30  # of the legend's columns


# ------------------------------------------------------------------------------------------------------- forgeries


def rankings_of_another_vote(votes: Votes) -> Votes:
    assert votes.rankings is not None
    swapped = votes.rankings.copy()
    swapped[3, 7] = swapped[3, 7][::-1]
    return recorded(replace(votes, rankings=swapped))


def class_twice(votes: Votes) -> Votes:
    assert votes.rankings is not None
    twice = votes.rankings.copy()
    twice[3, 7, 1] = twice[3, 7, 2]
    return recorded(replace(votes, rankings=twice))


def class_that_is_none(votes: Votes) -> Votes:
    assert votes.rankings is not None
    none = votes.rankings.copy()
    none[3, 7, 1] = 4
    return recorded(replace(votes, rankings=none))


def half_a_ranking(votes: Votes) -> Votes:
    assert votes.rankings is not None
    half = votes.rankings.copy()
    half[3, 7, 2:] = NO_RANKING
    return recorded(replace(votes, rankings=half))


def ranking_without_vote(votes: Votes) -> Votes:
    table = votes.votes.copy()
    table[3, 7] = -1
    return recorded(replace(votes, votes=table))


def no_rankings(votes: Votes) -> Votes:
    return recorded(replace(votes, rankings=None))


def others_after_the_record(votes: Votes) -> Votes:
    """What is first stays first: only the record tells."""
    assert votes.rankings is not None
    moved = votes.rankings.copy()
    moved[3, 7, 1:] = moved[3, 7, 1:][::-1]
    return replace(votes, rankings=moved)


@pytest.mark.parametrize(
    "forge",
    [
        rankings_of_another_vote, class_twice, class_that_is_none, half_a_ranking, ranking_without_vote, no_rankings,
        others_after_the_record,
    ],
)  # fmt: skip
def test_rankings_that_are_none_or_not_of_the_votes_are_found(tmp_path: Path, forge: Any) -> None:
    """Written under the certificate that the honest ones gave; all but the last with records made anew."""
    votes = of_parts(some())
    folder = hand_over(tmp_path / "c", votes)
    verify(folder)
    (folder / "votes.safetensors").write_bytes(votes_bytes(forge(votes)))
    with pytest.raises(DifferenceError, match="ranking|record|edited"):
        verify(folder)


@pytest.mark.parametrize("kind", ["images_inserted", "images_changed", "images_missing", "images_changed_in_place"])
def test_a_claim_that_is_too_large_is_found(tmp_path: Path, kind: str) -> None:
    folder = hand_over(tmp_path / "c", of_parts(some()))
    text = (folder / "certificate.json").read_text()
    (folder / "certificate.json").write_text(re.sub(f'("{kind}": )1\\b', r"\g<1>2", text))
    assert (folder / "certificate.json").read_text() != text
    with pytest.raises(DifferenceError, match=kind):
        verify(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"partitions": {"parts": 31, "by": "name"}}, "runs"),
        ({"partitions": {"parts": 30, "by": "size"}}, "by"),
        ({"partitions": {"parts": 1, "by": "name"}}, "parts"),
        ({"alpha": "0.001"}, "alpha"),
        ({"family": "point"}, "family"),
        ({"bound": "multiclass"}, "bound"),
        ({"exploratory": True}, "exploratory"),
        ({"threat": "noised-test"}, "threat"),
        ({"selection_runs": 3}, "selection_runs"),
        ({"subsample": 2**20}, "excludes"),
        ({"with_images": [1]}, "excludes"),
        ({"raw": {"images": 29}}, "partitions.parts"),
    ],
    ids=str,
)
def test_terms_that_parts_cannot_have_are_found(changed: dict[str, Any], said: str) -> None:
    asked = {"partitions": {"parts": 30, "by": "name"}, **changed}
    with pytest.raises(FormError, match=said):
        check_consistent(from_json(terms(30, 8, **asked)))


def test_another_election_is_another_certificate(tmp_path: Path) -> None:
    """Its terms are bound by the records; with all made anew, plurality brings no rankings along."""
    votes = of_parts(some())
    folder = hand_over(tmp_path / "c", votes)
    other = of_parts(some(), bound="plurality")
    (folder / "votes.safetensors").write_bytes(votes_bytes(other))
    with pytest.raises(DifferenceError):
        verify(folder)
    (folder / "votes.safetensors").write_bytes(votes_bytes(recorded(replace(other, rankings=votes.rankings))))
    with pytest.raises(DifferenceError, match="rankings"):
        verify(folder)


def test_many_classes_are_counted_in_time_that_a_reader_has() -> None:
    """Whatever an issuer hands over: a rival that needs more than the best one found so far is passed over."""
    rng = np.random.default_rng(1)
    ranked = np.stack([rng.permutation(2000) for _ in range(60)]).astype(np.uint16)
    made = runoff(ranked)
    assert made.winner >= 0 and first_of(ranked).shape == (60,)
