"""Every kernel that this CPU can run."""

from __future__ import annotations

import pytest

from dpclean.kernels import kernel_names


@pytest.fixture(params=kernel_names())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once with each kernel forced."""
    monkeypatch.setenv("DPCLEAN_KERNEL", request.param)
    return str(request.param)
