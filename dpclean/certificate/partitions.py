"""Certificates from one model a part of the training set: how many parts an attacker may touch without effect.

Levine and Feizi 2021 (arXiv 2006.14768) for plurality; the run-off of Rezaei et al. 2023 (arXiv 2302.02300), with the
exact least attack. docs/certificates.md, "Partitions", has the proofs. Nothing is random here: alpha is 0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_RANKING = 0xFFFF  # in place of every class, where a model votes for nobody


@dataclass(frozen=True)
class Election:
    """The winner of one point, and how many touched parts leave it the winner; less than 0 if nobody voted."""

    winner: int
    withstands: int


def part_of(word: bytes, parts: int) -> int:
    """The part, from 0, of the image with this word: its name below its class folder, or a digest of its content."""
    return int.from_bytes(hashlib.sha256(b"dpclean-part-1\0" + word).digest()[:8], "big") % parts


def first_places(rankings: NDArray[np.uint16]) -> NDArray[np.int64]:
    """[C] models that rank each class first; rankings: uint16 [K, C], all NO_RANKING where there is none."""
    voters = rankings[rankings[:, 0] != NO_RANKING]
    return np.bincount(voters[:, 0], minlength=rankings.shape[1])


def plurality(rankings: NDArray[np.uint16]) -> Election:
    """The class that most models rank first, of equal ones the lowest; rankings: uint16 [K, C], C >= 2.

    A touched model moves a lead by 2 at most.
    """
    n = first_places(rankings)
    winner = int(n.argmax())
    lead = n[winner] - n - (np.arange(len(n)) < winner)
    return Election(winner, int(np.delete(lead, winner).min()) // 2 if n.any() else -1)


def runoff(rankings: NDArray[np.uint16]) -> Election:
    """Of the two classes that most models rank first, the one that more models rank above the other.

    rankings: uint16 [K, C], C >= 2: each row the classes from best to worst, or NO_RANKING throughout. Of equal classes
    the lowest goes first, in both rounds.
    """
    n = first_places(rankings)
    if not n.any():
        return Election(0, -1)
    voters = rankings[rankings[:, 0] != NO_RANKING]
    places = np.argsort(voters, axis=1)  # of a permutation: where each class stands
    a, b = (int(c) for c in np.lexsort((np.arange(len(n)), -n))[:2])
    lead = int(np.sign(places[:, b] - places[:, a]).sum())  # of a over b
    winner = a if lead > 0 or (lead == 0 and a < b) else b
    rivals = np.delete(np.arange(len(n)), winner)
    ahead = np.sort(np.maximum(0, n[winner] - n[rivals] + (rivals > winner)))
    attacks = []
    if len(rivals) > 1:  # both finalists are others; the two that are nearest take least
        x, y = int(ahead[0]), int(ahead[1])
        attacks.append(max(-(-x // 2), -(-y // 2), -(-(x + y) // 3)))
    silent = len(rankings) - len(voters)
    attacks += [
        least for b in rivals if (least := _beaten(voters[:, 0], places, n, winner, int(b), silent)) is not None
    ]
    return Election(winner, min(attacks) - 1)


def _beaten(
    firsts: NDArray[np.uint16], places: NDArray[np.int64], n: NDArray[np.int64], winner: int, b: int, silent: int
) -> int | None:
    """The fewest touched models that bring b into the second round, in place of any other, and let it win there."""
    above = places[:, winner] < places[:, b]
    needed = int(above.sum()) - int((~above).sum()) + (b > winner)
    classes = np.arange(len(n))
    others = classes[(classes != winner) & (classes != b)]
    turned = np.bincount(firsts[above], minlength=len(n))[others]  # first place a third class, winner above b
    behind = np.maximum(0, n[others] - n[b] + (b > others))
    for m in range(len(firsts) + silent - int(n[b]) + 1):
        taken = np.maximum(0, behind - m)
        if taken.sum() > m or (taken > n[others]).any():
            continue
        good = int(np.minimum(taken, turned).sum())
        free = m - int(taken.sum())
        by_two = min(free, int(n[winner]) + int(turned.sum()) - good)
        if 2 * (good + by_two) + min(free - by_two, silent) >= needed:
            return m
    return None
