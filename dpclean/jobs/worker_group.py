"""The worker processes of one command on this machine: started, watched, stopped."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence

from dpclean.errors import DpcleanError, refusal
from dpclean.jobs.tasks import Tasks, new_worker

WATCH_SECONDS = 0.2


class WorkerGroup:
    """Workers on a job's missing tasks, one in each place: a device, say.

    A worker that dies is replaced. A task that ends its worker twice, while this command stands, has failed.
    start: makes the worker of a name in a place.
    """

    def __init__(
        self, tasks: Tasks, count: int, places: Sequence[str], start: Callable[[str, str], subprocess.Popen[bytes]]
    ) -> None:
        self.tasks = tasks
        self.count = count
        self._start = start
        self._processes: dict[str, tuple[subprocess.Popen[bytes], str]] = {}  # by the name that the worker has
        for place in places:
            self._add(place)

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _place in self._processes.values():
            process.kill()
            process.wait()

    def watch(self, look: Callable[[], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until all tasks are done (True), or until all workers have stopped after an interruption (False).

        look: is called again and again; what it raises ends this. Raises what a worker refused.
        """
        stopping = False
        while self._processes:
            time.sleep(WATCH_SECONDS)
            self._reap(replace=not stopping)
            look()
            if interrupted() and not stopping:
                stopping = True
                self.stop()
        return not self.tasks.missing(self.count)

    def stop(self) -> None:
        """Ask all workers to end after the task they are at."""
        for process, _ in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()

    def _add(self, place: str) -> None:
        worker = new_worker()
        self._processes[worker] = (self._start(worker, place), place)

    def _reap(self, *, replace: bool) -> None:
        """Deal with workers that have ended."""
        for worker, (process, place) in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            assert process.stdout is not None
            said = process.stdout.read()
            process.stdout.close()
            del self._processes[worker]
            if code > 0:
                raise _refusal(said, code)
            if code < 0:
                self._blame(worker, -code)
                if replace and self.tasks.missing(self.count):
                    self._add(place)

    def _blame(self, worker: str, signal_number: int) -> None:
        """Count a death against the task that the worker was at."""
        task = self.tasks.claimed_by(worker)
        if task is None:
            return
        if self.tasks.attempts_path(task).exists():
            self.tasks.lost(task, f"{self.tasks.noun} {task}: ended its process twice, by signal {signal_number}")
        else:
            self.tasks.note(self.tasks.attempts_path(task), f"signal {signal_number}")


def _refusal(said: bytes, code: int) -> DpcleanError:
    """What a worker refused, as its own kind of error."""
    try:
        return refusal(json.loads(said.strip().splitlines()[-1]))
    except (ValueError, IndexError, KeyError, TypeError):
        return DpcleanError(f"a worker left with exit code {code}", "its words are above; please report them")
