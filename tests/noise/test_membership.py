"""Members of runs against known answers that share no code with dpclean."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpclean import _kernels
from dpclean.noise.keys import subkey
from dpclean.noise.membership import members
from tests.kernels import KERNELS

KNOWN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "whole_images.json").read_text())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", KNOWN["members"], ids=lambda case: f"run {case['run']}")
def test_members_are_the_known_ones(case: dict[str, Any], kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPCLEAN_KERNEL", kernel)
    found = members(bytes.fromhex(case["key"]), case["run"], case["u"], case["images"])
    assert len(found) == case["members"] and found[:8].tolist() == case["first"]
    assert hashlib.sha256(found.astype("<u8").tobytes()).hexdigest() == case["sha256_u64le"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("share", [1, 1 << 31, (1 << 32) - 1])
def test_every_kernel_takes_what_the_words_of_the_stream_say(
    kernel: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPCLEAN_KERNEL", kernel)
    key = bytes(range(1, 33))
    blocks = [_kernels.chacha20(subkey(key, "subsample"), block, 5, 0, 0) for block in range(40)]
    words = np.array(blocks, np.uint32).ravel()
    assert np.array_equal(members(key, 5, share, len(words)), np.flatnonzero(words < share))


def test_whether_a_place_is_taken_does_not_depend_on_how_many_there_are() -> None:
    key = bytes(range(32))
    whole = members(key, 3, 1 << 31, 1000)
    for count in (0, 1, 15, 16, 17, 999):
        assert np.array_equal(members(key, 3, 1 << 31, count), whole[whole < count])
