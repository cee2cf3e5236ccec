"""The worker processes of one command on this machine: started, watched, stopped."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from dpclean.certify.units import Units, new_worker
from dpclean.errors import DpcleanError, InputError, refusal
from dpclean.jobs.child_process import start
from dpclean.jobs.staging import Staging

WATCH_SECONDS = 0.2
MOST_FAILED = 0.05


class Crew:
    """Workers on a job's missing runs.

    A worker that dies is replaced. A run that ends its worker twice, while this command stands, is a vote for nobody.
    """

    def __init__(self, staging: Staging, units: Units, runs: int, devices: list[str], threads: int) -> None:
        self.out = staging.out
        self.units = units
        self.runs = runs
        self.threads = threads
        self._processes: dict[str, tuple[subprocess.Popen[bytes], str]] = {}  # by the name that the worker has
        for device in devices:
            self._start(device)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _device in self._processes.values():
            process.kill()
            process.wait()

    def watch(self, tell: Callable[[], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until all runs are in (True), or until the crew has stopped after an interruption (False).

        Raises what a worker refused, and InputError where too many runs failed.
        """
        stopping = False
        while self._processes:
            time.sleep(WATCH_SECONDS)
            self._reap(replace=not stopping)
            tell()
            self._check_failed()
            if interrupted() and not stopping:
                stopping = True
                self.stop()
        return not self.units.missing(self.runs)

    def stop(self) -> None:
        """Ask all workers to end after the run they are at."""
        for process, _ in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()

    def _start(self, device: str) -> None:
        worker = new_worker()
        arguments = (str(self.out), device, str(self.runs), worker)
        process = start("dpclean.certify.worker", *arguments, threads=self.threads)
        self._processes[worker] = (process, device)

    def _reap(self, *, replace: bool) -> None:
        """Deal with workers that have ended."""
        for worker, (process, device) in list(self._processes.items()):
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
                if replace and self.units.missing(self.runs):
                    self._start(device)

    def _blame(self, worker: str, signal_number: int) -> None:
        """Count a death against the run that the worker was at."""
        run = self.units.claimed_by(worker)
        if run is None:
            return
        if self.units.attempts_path(run).exists():
            self.units.give_up(run, f"run {run}: ended its process twice, by signal {signal_number}")
        else:
            self.units.note(self.units.attempts_path(run), f"signal {signal_number}")

    def _check_failed(self) -> None:
        check_failed(self.units, self.runs)


def check_failed(units: Units, runs: int) -> None:
    """Refuse to go on where more than one run in twenty has no vote. Raises InputError."""
    failed = units.failed()
    if len(failed) > MOST_FAILED * runs:
        first = next(iter(failed.values()))
        raise InputError(
            f"{len(failed)} of {runs} runs failed, more than one in twenty; the first: {first}",
            "mend what fails, then start again with --overwrite: runs done before and after must be alike",
        )


def _refusal(said: bytes, code: int) -> DpcleanError:
    """What a worker refused, as its own kind of error."""
    try:
        return refusal(json.loads(said.strip().splitlines()[-1]))
    except (ValueError, IndexError, KeyError, TypeError):
        return DpcleanError(f"a worker left with exit code {code}", "its words are above; please report them")
