"""What jobs of this kind have in common: what they compute with, in how many threads, and how a signal ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from dpclean.build import build
from dpclean.denoise.denoiser import choose_dtype
from dpclean.errors import Interrupted
from dpclean.jobs.record import Json, Record
from dpclean.threads import choose_threads, computing_with


def environment_of(device: torch.device) -> Json:
    """What decides the bytes of a result beside its parameters."""
    cpu = device.type == "cpu"
    return {
        "device": torch.backends.cpu.get_cpu_capability() if cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads() if cpu else None,
        "dtype": choose_dtype("auto", device),  # of the denoiser, for images and where an attacker follows gradients
        "torch": str(torch.__version__),
        "dpclean": build(),
    }


def computing_as_begun(record: Record | None, wanted: int | None) -> AbstractContextManager[object]:
    """So many threads as an interrupted job was begun with, as sums depend on their number."""
    return computing_with(record.environment.get("threads") if record and wanted is None else choose_threads(wanted))


def stopping(stop: threading.Event, told: Callable[[], str]) -> Callable[[], None]:
    """What ends the work soon after a signal. Raises Interrupted."""

    def check() -> None:
        if stop.is_set():
            raise Interrupted(told(), "the same command goes on")

    return check
