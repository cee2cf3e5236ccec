"""Elections by one model a part of the training set: how many parts an attacker may touch without effect.

Levine and Feizi 2021 (arXiv 2006.14768) for plurality; the run-off of Rezaei et al. 2023 (arXiv 2302.02300), with the
exact least attack. docs/certificates.md, "Partitions", has the proofs. Nothing is random here: alpha is 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_RANKING = 0xFFFF  # in place of every class, where a model ranks none
MOST_RANKED = NO_RANKING  # classes


@dataclass(frozen=True)
class Election:
    """The winner of one point, and how many touched parts leave it the winner; both -1 if nobody voted.

    votes: models that rank the winner first; next_votes: that rank first whichever other class most do.
    """

    winner: int
    withstands: int
    votes: int = 0
    next_votes: int = 0


def elections(votes: NDArray[np.int32], rankings: NDArray[np.uint16] | None, classes: int) -> Iterator[Election]:
    """Of each point; votes: int32 [K, P]; rankings: uint16 [K, P, C] for the run-off, None for plurality."""
    for point in range(votes.shape[1]):
        yield plurality(votes[:, point], classes) if rankings is None else runoff(rankings[:, point])


def plurality(votes: NDArray[Any], classes: int) -> Election:
    """The class with most votes, of equal ones the lowest; votes: integers [K], -1 for nobody; classes: at least 2.

    A touched model moves a lead by 2 at most.
    """
    present, n = np.unique(votes[votes >= 0], return_counts=True)  # of many classes few have votes
    if not len(n):
        return Election(-1, -1)
    first = int(n.argmax())
    winner, others = int(present[first]), np.delete(n, first)
    leads = n[first] - others - (np.delete(present, first) < winner)
    if len(present) < classes:  # of those without votes the lowest, which is before the winner if any is
        leads = np.append(leads, n[first] - (first < winner))
    return Election(winner, int(leads.min()) // 2, int(n[first]), int(others.max(initial=0)))


def runoff(rankings: NDArray[np.uint16]) -> Election:
    """Of the two classes that most models rank first, the one that more models rank above the other.

    rankings: uint16 [K, C], C >= 2: each row the classes from best to worst, or NO_RANKING throughout. Of equal classes
    the lowest goes first, in both rounds.
    """
    voters = rankings[rankings[:, 0] != NO_RANKING]
    if not len(voters):
        return Election(-1, -1)
    firsts, silent, classes = voters[:, 0], len(rankings) - len(voters), np.arange(rankings.shape[1])
    n = np.bincount(firsts, minlength=len(classes))
    places = np.argsort(voters, axis=1)  # of a permutation: where each class stands
    a, b = (int(c) for c in np.lexsort((classes, -n))[:2])
    lead = int(np.sign(places[:, b] - places[:, a]).sum())  # of a over b
    winner = a if lead > 0 or (lead == 0 and a < b) else b
    rivals = np.delete(classes, winner)
    least = len(rankings) + 1  # touched models that make another class the winner
    if len(rivals) > 1:  # both finalists are others; the two that are nearest take least
        x, y = (int(c) for c in np.sort(np.maximum(0, n[winner] - n[rivals] + (rivals > winner)))[:2])
        least = max(-(-x // 2), -(-y // 2), -(-(x + y) // 3))
    above = places[:, [winner]] < places  # [voters, C]: the winner above each class
    needed = 2 * above.sum(axis=0) - len(voters) + (classes > winner)
    present, places_of_firsts = np.unique(firsts, return_inverse=True)  # of many classes few come first anywhere
    for rival in rivals[np.argsort(needed[rivals], kind="stable")].tolist():
        if (needed[rival] + 1) // 2 >= least:  # a touched model gives 2 at most
            break
        least = _beaten(present, places_of_firsts, above[:, rival], n, winner, rival, int(needed[rival]), silent, least)
    return Election(winner, least - 1, int(n[winner]), int(np.delete(n, winner).max()))


def _beaten(
    present: NDArray[np.uint16], firsts: NDArray[np.int64], above: NDArray[np.bool_], n: NDArray[np.int64], winner: int,
    b: int, needed: int, silent: int, most: int,
) -> int:  # fmt: skip
    """The fewest touched models that bring b into the second round and let it win there; most, if not fewer than that.

    Every touched model may as well rank b first and the winner last. present: the classes that any voter ranks first,
    ascending; firsts: of each voter, a place in these; above: bool, whether they rank the winner above b; needed: by
    how much b must gain on the winner in the second round.
    """
    third = (present != winner) & (present != b)  # with one model touched b has passed those that nobody ranks first
    others = present[third]
    there = n[others]
    behind = there - n[b] + (b > others)
    turned = np.bincount(firsts[above], minlength=len(present))[third]
    by_two = int(n[winner] + turned.sum())  # models at most whose touch counts 2

    def suffices(m: int) -> bool:
        taken = np.maximum(0, behind - m)  # first places that b must take from each
        chosen = m - int(np.maximum(0, taken - turned).sum())  # models that need not be among those that count nothing
        gained = 2 * min(chosen, by_two) + min(max(0, chosen - by_two), silent)
        return gained >= needed and int(taken.sum()) <= m and bool((taken <= there).all())

    counts = range(1, min(most, len(firsts) + silent - int(n[b]) + 1))  # each part of what suffices rises with m
    place = bisect_left(counts, True, key=suffices)
    return counts[place] if place < len(counts) else most
