"""Many models, each of a share or a part of the images, and a vote: the classifiers of `certify` against whole images.

Their heads learn from what a frozen network makes of the images, without noise, and what is claimed of their votes is
what `certify --extractor E --subsample SHARE` and `--partitions K` claim. So an audit shows an attack beside the proof
that it is too small.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.victims.victim import Check, Seen, never
from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.bounds.search import MOST_RUNS
from dpclean.certificate.elections import elections
from dpclean.certificate.partitions import BY_NAME, Parts
from dpclean.certificate.votes import ABSTAIN
from dpclean.certificate.whole_images import word_of
from dpclean.certify.division import divide, divided_by
from dpclean.certify.extracted import as_rows
from dpclean.certify.feature_runs import AT_ONCE
from dpclean.certify.runs import for_nobody
from dpclean.data.dataset import Images
from dpclean.errors import UsageError
from dpclean.noise.membership import members
from dpclean.train.ridge import NAME, Head, Ridge, fit, rankings, votes

LOOK = 8  # heads, to tell from how long they take
ALPHA = Fraction(1, 1000)  # of a false claim about any target, without poison or with it

Rows = NDArray[np.float32]
Classes = NDArray[np.int64]
Answers = tuple[Classes, Classes]  # of each point its class, -1 for none, and the images whose change leaves it so


@dataclass(frozen=True)
class Voters:
    """What has learned: heads, None of a run that took no image. count: of a ballot to what is claimed."""

    heads: Sequence[Head | None]
    learner: VotingLearner

    def predict(self, points: Rows) -> Classes:
        """The class int64 [P] of each, -1 where nothing is claimed of it."""
        return self._answers(points)[0]

    def reach(self, points: Rows) -> Classes:
        """How many images, changed at will in their places, leave that class what it is, int64 [P]; 0 for none."""
        return self._answers(points)[1]

    def _answers(self, points: Rows) -> Answers:
        return self.learner.answers(np.stack(list(self._ballots(as_rows(points)))))

    def _ballots(self, points: Rows) -> Iterator[NDArray[np.integer]]:
        ranked = self.learner.ranked
        cast = rankings if ranked else votes
        for start in range(0, len(self.heads), AT_ONCE):
            block = self.heads[start : start + AT_ONCE]
            there = [head for head in block if head is not None]
            found = iter(cast(there, points)) if there else iter(())
            for head in block:
                yield for_nobody(len(points), ranked) if head is None else next(found)


class VotingLearner(ABC):
    """So many heads. images: as they were planted, whose order, names and contents say which head gets which."""

    ranked = 0  # classes, where a ballot ranks them

    def __init__(self, images: Images, runs: int) -> None:
        self.name, self.classes = f"{runs} x {NAME}", len(images.classes)
        self.about = "ridge regression on features of length 1, as in 'dpclean certify --extractor', of many models"
        self.runs, self._images, self._recipe = runs, images, Ridge()

    def fit(self, seen: Rows, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Voters:
        rows, heads = as_rows(seen), list[Head | None]()
        for number in range(1, self.runs + 1):
            check()
            heads.append(self.head(number, rows, labels, seed))
        return Voters(heads, self)

    def head(self, number: int, rows: Rows, labels: Classes, seed: int) -> Head | None:
        """That of run 1, 2, ..."""
        taken = self.taken(number, seed)
        return fit(self._recipe, rows[taken], labels[taken], self.classes) if len(taken) else None

    @abstractmethod
    def taken(self, number: int, seed: int) -> Classes:
        """The places of the images that run 1, 2, ... learns from."""

    @abstractmethod
    def answers(self, ballots: NDArray[np.integer]) -> Answers:
        """What is claimed from the ballots of all runs."""


class OnShares(VotingLearner):
    def __init__(self, images: Images, runs: int, share: int, key: bytes, level: Fraction) -> None:
        super().__init__(images, runs)
        self._key, self._share = key, share
        self._settings = ClaimSettings(runs, level, Fraction(0), Fraction(0), share, len(images))

    def taken(self, number: int, seed: int) -> Classes:
        key = hashlib.sha256(self._key + seed.to_bytes(8, "little")).digest()
        places = members(key, number, self._share, int(self._images.indices.max()) + 1)
        return np.flatnonzero(np.isin(self._images.indices, places))

    def answers(self, ballots: NDArray[np.integer]) -> Answers:
        found, reach = np.full(ballots.shape[1], ABSTAIN, np.int64), np.zeros(ballots.shape[1], np.int64)
        for point in range(ballots.shape[1]):
            cast = ballots[:, point]
            counts = np.bincount(cast[cast >= 0], minlength=self.classes)
            winner = int(counts.argmax())
            claimed = changed(self._settings, int(counts[winner]), int(np.delete(counts, winner).max()))
            if claimed is not None:
                found[point], reach[point] = winner, claimed
        return found, reach


@lru_cache(maxsize=1 << 16)
def changed(settings: ClaimSettings, k_a: int, k_b: int) -> int | None:
    """How many changed images a claim covers; None where there is no claim."""
    made = find_bound(DEFAULT_BOUND).claim(settings, k_a, k_b, None)
    return made.whole.changed if made is not None and made.covers_anything and made.whole is not None else None


class OnParts(VotingLearner):
    def __init__(self, images: Images, parts: int) -> None:
        super().__init__(images, parts)
        self.ranked = self.classes
        self._division, self._by = divide(images, parts, None), divided_by(images, None)

    def taken(self, number: int, seed: int) -> Classes:
        return self._division.part(number - 1)

    def answers(self, ballots: NDArray[np.integer]) -> Answers:
        firsts = ballots[:, :, 0].astype(np.int32)
        elected = list(elections(firsts, ballots.astype(np.uint16), self.classes))
        held = [max(0, one.withstands) for one in elected]
        claims = [Parts(touched, self._by).as_json() for touched in held]
        kind = "images_changed_in_place" if self._by == BY_NAME else "images_changed"
        classes = [one.winner if touched else ABSTAIN for one, touched in zip(elected, held, strict=True)]
        return np.array(classes, np.int64), np.array([claim[kind] for claim in claims], np.int64)


class Voting(Defence):
    """What both have in common."""

    @abstractmethod
    def learners(self, images: Images) -> Sequence[VotingLearner]: ...

    frozen_only = True

    def seconds(self, images: Images, seen: Seen) -> float:
        (learner,) = self.learners(images)
        rows, heads = as_rows(seen), min(LOOK, learner.runs)
        begun = time.monotonic()
        for number in range(1, 1 + heads):
            learner.head(number, rows, images.labels, 0)
        return (time.monotonic() - begun) / heads * learner.runs

    def __init__(self, argument: str) -> None:
        self._argument = argument

    @property
    def label(self) -> str:
        return f"{self.name}:{self._argument}"


class Subsample(Voting):
    name = "subsample"
    takes = "SHARE:RUNS"
    paper = "Jia et al. 2021, 'Intrinsic Certified Robustness of Bagging against Data Poisoning Attacks'"
    about = (
        "RUNS models, each of a random share of the images, as 'dpclean certify --subsample' has them; no answer counts"
        " where nothing is claimed of it"
    )

    def __init__(self, argument: str, setting: Setting) -> None:
        super().__init__(argument)
        share, _, runs = argument.partition(":")
        self._share, self._runs = word_of(share), int(runs)
        self._key, self._level = setting.key, ALPHA / (2 * setting.asked)

    @classmethod
    def check(cls, argument: str) -> None:
        share, _, runs = argument.partition(":")
        word_of(share)
        _check_count(cls, runs)

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(argument, setting)]

    def learners(self, images: Images) -> Sequence[VotingLearner]:
        return [OnShares(images, self._runs, self._share, self._key, self._level)]


class Partitions(Voting):
    name = "partitions"
    takes = "K"
    paper = (
        "Levine and Feizi 2021, 'Deep Partition Aggregation'; Rezaei et al. 2023, 'Run-Off Election: Improved Provable"
        " Defense against Data Poisoning Attacks'"
    )
    about = (
        "K models, each of one part of the images, and a run-off, as 'dpclean certify --partitions' has them; no answer"
        " counts where nothing is claimed of it"
    )

    @classmethod
    def check(cls, argument: str) -> None:
        _check_count(cls, argument, 2)

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(argument)]

    def learners(self, images: Images) -> Sequence[VotingLearner]:
        return [OnParts(images, int(self._argument))]


def _check_count(kind: type[Defence], text: str, least: int = 1) -> None:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= MOST_RUNS):
        raise UsageError(
            f"defence {kind.name!r} takes a number of models from {least} to {MOST_RUNS}, got {text!r}",
            f"give it as {kind.asked_as()}",
        )
