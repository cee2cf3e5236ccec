"""What each defence does to images, and what to the choice of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpclean.audit.defences import DEFENCES, find_defences
from dpclean.audit.defences.deep_knn import DeepKnn
from dpclean.audit.defences.defence import Setting

IMAGES = list(np.random.default_rng(0).integers(60, 196, (3, 16, 16, 3), np.uint8))


def test_every_defence_is_a_function_of_image_index_and_run(denoiser: Path) -> None:
    setting = Setting([0.1], str(denoiser), "one-step", "cpu", bytes(32))
    for kind in DEFENCES.values():
        (defence,) = kind.made(setting)
        whole = defence.apply(IMAGES, indices=[5, 6, 7], run=1)
        (alone,) = defence.apply(IMAGES[1:2], indices=[6], run=1)
        assert np.abs(whole[1].astype(int) - alone).max() <= 1  # batches of other shapes round otherwise
        elsewhere = defence.apply(IMAGES[1:2], indices=[6], run=2)[0]
        assert (defence.sigma is not None) == bool((elsewhere != alone).any())
        change = np.std(np.subtract(whole, IMAGES, dtype=float))
        if defence.sigma is not None:
            assert change == pytest.approx(25.5, rel=0.1)  # this denoiser leaves the noise where it is
        grey = defence.apply([IMAGES[0][:, :, :1]], indices=[0], run=0)[0]
        assert grey.shape == (16, 16, 1) and grey.dtype == np.uint8


def test_jpeg_changes_little(denoiser: Path) -> None:
    (jpeg,) = DEFENCES["jpeg-75"].made(Setting([], str(denoiser), "one-step", "cpu", bytes(32)))
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)[:, :, None].repeat(3, 2)
    (found,) = jpeg.apply([smooth], indices=[0], run=0)
    assert 0 < np.abs(found.astype(int) - smooth).max() < 12


def test_neighbours_of_another_label_throw_an_image_out() -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal((4, 0), 0.3, (20, 2)), random.normal((0, 4), 0.3, (20, 2))]).astype(np.float32)
    labels = np.repeat([0, 1], 20)
    labels[3] = 1  # a stranger among the others
    assert np.flatnonzero(~DeepKnn().kept(rows, labels)).tolist() == [3]


def test_no_defence_comes_first_and_once() -> None:
    assert [kind.name for kind in find_defences("jpeg-75,none,jpeg-75")] == ["none", "jpeg-75"]
