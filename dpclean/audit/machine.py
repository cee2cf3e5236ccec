"""What jobs of this kind have in common: what they compute with, in how many threads, and how a signal ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager

import torch

from dpclean.build import build
from dpclean.denoise.denoiser import choose_dtype
from dpclean.errors import Interrupted
from dpclean.jobs.record import Json
from dpclean.jobs.tasks import Tasks

OTHERS_SECONDS = 1.0  # between two looks whether other commands are done

Check = Callable[[], None]


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


@contextmanager
def claimed(
    tasks: Tasks, total: int, *, stages: Sequence[int] = (), still: Callable[[], bool], check: Check
) -> Iterator[Iterator[int]]:
    """Gives the numbers of tasks that are this process's to do, one after the other, until all are done by whoever has
    claimed them, or the job is there no more (still). Each is finished before the next is asked for. stages: where
    some end, in order: all up to there are done before any later one is begun. check: is called where others are
    waited for.
    """

    def numbers() -> Generator[int, None, None]:
        while still() and (missing := tasks.missing(total)):
            end = next(end for end in (*stages, total) if end >= missing[0])
            ready = [number for number in missing if number <= end]
            others = True  # claim all that is ready
            for number in ready:
                with tasks.claim(number) as mine:
                    if mine:
                        others = False
                        yield number
            if others:
                check()
                time.sleep(OTHERS_SECONDS)

    with closing(numbers()) as given:
        yield given


def stopping(stop: threading.Event, told: Callable[[], str]) -> Callable[[], None]:
    """What ends the work soon after a signal. Raises Interrupted."""

    def check() -> None:
        if stop.is_set():
            raise Interrupted(told(), "the same command goes on")

    return check
