"""Which images a run takes: each one independently, with a probability that is a multiple of 2^-32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpclean import _kernels
from dpclean.kernels import kernel_name
from dpclean.noise.keys import subkey


def members(key: bytes, run: int, share: int, count: int) -> NDArray[np.int64]:
    """The places, of 0..count-1 and ascending, that a run takes; each with probability share / 2^32.

    Place i is taken iff word i of the run's stream of ChaCha20 under the subkey "subsample" is below share: whether it
    is depends on key, run and place alone, never on count or on what is there.
    """
    places = np.empty(count, np.int64)
    found = _kernels.members(kernel_name(), subkey(key, "subsample"), run, share, count, places.ctypes.data)
    return places[:found].copy()
