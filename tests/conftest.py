"""Settings of the whole suite: GPU tests are skipped where there is no GPU, and nothing is ever judged by its time."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# said aloud it does not follow the load of the machine; weights that tests compare depend on it
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

# a suite that a shell started in the background ignores interrupts, and would hand that on to what it tests
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dpclean", deadline=None)
settings.load_profile("dpclean")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where torch sees none; torch is imported only when such a test was collected."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
