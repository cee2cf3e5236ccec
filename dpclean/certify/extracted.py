"""Images that a frozen network turns into rows of features, once for all runs, as long as no run noises its own: from
there on they are like any rows.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpclean.certify.feature_runs import FeatureData
from dpclean.certify.inputs import CertifiedData, check_ancestry
from dpclean.certify.options import CertifyOptions
from dpclean.data.features import unit_rows

if TYPE_CHECKING:
    from dpclean.train.extractor import Extractor


def extractor_of(options: CertifyOptions, certified: CertifiedData) -> Extractor:
    """The extractor asked for. Raises InputError where it was made from images of RAW, as far as that is known."""
    from dpclean.device import choose_device
    from dpclean.train.extractor import find_extractor

    assert options.extractor is not None
    found = find_extractor(options.extractor, options.weights, device=choose_device(options.device))
    check_ancestry(f"the extractor {options.extractor!r}", found.ancestry, certified)
    return found


def rows_of(extractor: Extractor, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """float32 [N, D], as Features has them: each of its own image alone, the same bits at every place."""
    if not pixels:
        return np.empty((0, extractor.dimensions()), np.float32)
    return as_rows(extractor.features(pixels))


def as_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of what an extractor said of some images [N, D]."""
    values = values.copy()
    values[~np.isfinite(values).all(axis=1)] = 0  # a rule for that image alone: it says nothing
    return unit_rows(values)


def extract(extractor: Extractor, certified: CertifiedData) -> FeatureData:
    """The rows of D and of the points."""
    train, points = certified.train, certified.points
    data = FeatureData(
        rows_of(extractor, train.pixels),
        train.labels,
        train.indices,
        rows_of(extractor, points.pixels),
    )
    if certified.division is None:
        return data
    return replace(data, order=certified.division.order, sizes=certified.division.sizes)


def seconds_an_image(extractor: Extractor, certified: CertifiedData, some: int = 64) -> float:
    """About how long the extractor takes for one of these images."""
    pixels = certified.train.pixels[:some]
    extractor.features(pixels[:1])  # pays for what is set up once
    begun = time.perf_counter()
    extractor.features(pixels)
    return (time.perf_counter() - begun) / len(pixels)
