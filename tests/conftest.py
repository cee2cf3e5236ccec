"""Settings of the whole suite: GPU tests are skipped where there is no GPU, and nothing is ever judged by its time."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import settings

# a suite that a shell started in the background ignores interrupts, and would hand that on to what it tests
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dpclean", deadline=None)
settings.load_profile("dpclean")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe `tiny` in a third of its steps, where it does not matter how much is learned."""
    from dpclean.train import recipes

    tiny = replace(recipes.RECIPES["tiny"], least_steps=20)
    monkeypatch.setattr(recipes, "RECIPES", MappingProxyType({**recipes.RECIPES, "tiny": tiny}))


def pytest_configure(config: pytest.Config) -> None:
    """Torch's threads: the cores, shared by the processes of the suite where there are several (pytest -n).

    Said aloud their number does not follow the load of the machine; weights that tests compare depend on it.
    """
    if getattr(config.option, "numprocesses", None):  # it only hands out tests, to processes that come here too
        return
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where torch sees none; torch is imported only when such a test was collected."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
