"""Threads of the parent that each serve one worker process, and the jobs they share."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Protocol

from dpclean.data.decoding.process import WorkerDied, WorkerProcess
from dpclean.data.records import DataOptions
from dpclean.errors import InternalError, SetupError


class Job(Protocol):
    """Something to do with a worker."""

    def run(self, slot: Slot) -> None:
        """Does it; may replace the slot's worker."""
        ...

    def fail(self, error: Exception) -> None:
        """Takes note that run raised error, or that the job is dropped."""
        ...

    def end(self) -> None:
        """Comes last, whatever happened: nothing more will come of this job."""
        ...


class Slot:
    """The place of one worker, started when it is first used."""

    def __init__(self, options: DataOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._closed = False
        self.process: WorkerProcess | None = None
        self.room: int | None = None  # bytes that one image may take in the worker started last

    def worker(self) -> WorkerProcess:
        """The worker, a new one after discard. Raises SetupError, and WorkerDied after close."""
        if self.process is None:
            started = WorkerProcess(self._options)
            with self._lock:
                if self._closed:  # its pipes are closed, and their numbers may be another file's by now
                    started.kill()
                    raise WorkerDied
                self.process, self.room = started, started.room
        return self.process

    def discard(self) -> None:
        """Ends the worker."""
        with self._lock:
            if self.process is not None:
                self.process.kill()
                self.process = None

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the worker from another thread, for good."""
        with self._lock:
            self._closed = True
            if self.process is not None:
                self.process.terminate()


class WorkerThreads:
    """Up to count threads with a worker each, doing jobs in the order in which they were given."""

    def __init__(self, count: int, options: DataOptions) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._slots = [Slot(options) for _ in range(count)]
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        """Queues a job; never blocks."""
        self._jobs.put(job)
        if len(self._threads) < len(self._slots):
            thread = threading.Thread(target=self._serve, args=(self._slots[len(self._threads)],), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise SetupError("no thread can be started", "raise the limits (ulimit -u, ulimit -v)") from error
            self._threads.append(thread)

    def pids(self) -> list[int]:
        """Processes of the workers that were started and not discarded."""
        return [process.pid for process in [slot.process for slot in self._slots] if process is not None]

    def room(self) -> int | None:
        """Bytes that one image may take, in the narrowest of the workers that were started; None before."""
        return min((slot.room for slot in self._slots if slot.room is not None), default=None)

    def close(self) -> None:
        """Ends threads and workers; jobs not done are dropped."""
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job.fail(RuntimeError("the worker pool was closed"))
                job.end()
        for _ in self._threads:
            self._jobs.put(None)
        for slot in self._slots:
            slot.close()
        for thread in self._threads:
            thread.join()

    def _serve(self, slot: Slot) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.run(slot)
            except Exception as error:  # handed to whoever waits for the job
                job.fail(error)
                slot.discard()
            except BaseException as error:  # a thread that ends would leave its part of the queue to nobody
                job.fail(InternalError(f"a worker's thread was ended by {type(error).__name__}", "please report it"))
                slot.discard()
            finally:
                job.end()
        slot.discard()
