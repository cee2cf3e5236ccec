"""Every kernel that this CPU can run."""

from __future__ import annotations

import pytest

from tests.kernels import KERNELS


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once with each kernel forced."""
    monkeypatch.setenv("DPCLEAN_KERNEL", request.param)
    return str(request.param)
