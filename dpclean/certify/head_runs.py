"""Runs that fit a head to what a frozen extractor makes of their images, noised and denoised for each run anew.

An image's row is the same bits in every batch (train/extractor.py), so the images of several runs go through the
extractor together; noise and denoising are of one run at a time, and so is the head.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.whole_images import WORD
from dpclean.certify.data import Data
from dpclean.certify.extracted import rows_of
from dpclean.certify.feature_runs import AT_ONCE, dump
from dpclean.certify.run_settings import RunSettings
from dpclean.certify.runs import Ballot, Result
from dpclean.certify.runs_on_images import RunsOnImages
from dpclean.errors import ConflictError
from dpclean.train.extractor import find_extractor
from dpclean.train.ridge import Head, Ridge, fit, rankings, votes

IMAGES_AT_ONCE = 256  # about, where runs take few


class HeadRuns(RunsOnImages):
    """See the module. A run that takes no image votes for nobody."""

    def __init__(self, settings: RunSettings, classes: Sequence[str], key: bytes) -> None:
        super().__init__(settings, classes, key)
        assert settings.extractor is not None
        weights = None if settings.weights is None else Path(settings.weights)
        self._extractor = find_extractor(settings.extractor, weights, device=self.denoiser.device)
        if self._extractor.digest != settings.extractor_digest:
            raise ConflictError(
                f"the extractor {settings.extractor!r} is not the one that the job was begun with", "restore its files"
            )
        self._recipe = msgspec.convert(settings.recipe, Ridge)
        self._classes = len(classes)

    def prepare(self, data: Data) -> None:
        """See RunsOnImages."""
        super().prepare(data)
        share = 1.0 if self.settings.share is None else self.settings.share / WORD
        parts = 1 if data.division is None else len(data.division.sizes)
        self.at_once = int(np.clip(IMAGES_AT_ONCE / (len(data.train) * share / parts), 1, AT_ONCE))
        if not self.noises_points:
            self._point_rows = rows_of(self._extractor, data.points)

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """See Runs."""
        drawn = [self.training_images(number) for number in numbers]
        begun = time.perf_counter()
        rows = rows_of(self._extractor, [image for images, _ in drawn for image in images])
        self._spent("extract", begun)
        ends = accumulate((len(images) for images, _ in drawn), initial=0)
        for number, (_, labels), (start, end) in zip(numbers, drawn, pairwise(ends), strict=True):
            if start == end:  # part of what a run is, not a failure: nothing is drawn again
                yield self._for_nobody(), None
                continue
            points = self._rows_of_points(number)
            begun = time.perf_counter()
            head = fit(self._recipe, rows[start:end], labels, self._classes)
            ballot = self._voted(head, points)
            self._spent("train and predict", begun)
            yield ballot, dump(head) if self.settings.keep_models else None

    def _rows_of_points(self, number: int) -> NDArray[np.float32]:
        if not self.noises_points:
            return self._point_rows
        images = self.points(number)
        begun = time.perf_counter()
        rows = rows_of(self._extractor, images)
        self._spent("extract", begun)
        return rows

    def _voted(self, head: Head, points: NDArray[np.float32]) -> Ballot:
        ballot: Ballot = rankings([head], points)[0] if self.settings.rankings else votes([head], points)[0]
        return ballot
