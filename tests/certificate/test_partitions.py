"""Elections of models, against known answers that share no code with dpclean and against every possible attack."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dpclean.certificate.partitions import NO_RANKING, Election, part_of, plurality, runoff

KNOWN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "whole_images.json").read_text())
RULES = (plurality, runoff)


def as_array(rankings: list[list[int] | None], classes: int) -> NDArray[np.uint16]:
    return np.array([[NO_RANKING] * classes if row is None else row for row in rankings], np.uint16)


@pytest.mark.parametrize("case", KNOWN["partition"], ids=lambda case: f"{case['classes']}-{len(case['rankings'])}")
def test_elections_are_the_known_ones(case: dict[str, Any]) -> None:
    rankings = as_array(case["rankings"], case["classes"])
    assert plurality(rankings) == Election(*case["plurality"])
    assert runoff(rankings) == Election(*case["runoff"])


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
