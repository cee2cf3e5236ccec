"""Runs as files: claimed by one, written whole, counted once, told apart from those of another job."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpclean.certify.run_tasks import NO_MODEL, RunTasks
from dpclean.certify.runs import ballot_of
from dpclean.errors import ConflictError, InputError, SetupError

JOB = "ab" * 32


def tasks(folder: Path, job: str = JOB) -> RunTasks:
    made = RunTasks(folder, job, points=3)
    made.make_folders()
    return made


def row(*votes: int) -> np.ndarray:
    return np.array(votes, np.int32)


def test_a_worker_without_memory_says_so_and_casts_no_vote() -> None:
    """Rows of features are counted in its own arrays, where torch refuses nothing."""
    starved = (
        "from dpclean.certify import worker\n"
        "def serve(*_): raise MemoryError('Unable to allocate 9 GiB')\n"
        "worker.serve = serve; worker.main()"
    )
    line = [sys.executable, "-c", starved, str(os.getpid()), "out", "cpu", "1", "name"]
    done = subprocess.run(line, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == told["exit"] == SetupError.exit and done.stderr == ""
    assert "out of memory, and no vote" in told["message"] and "9 GiB" in told["message"]


def test_what_was_written_is_read_in_the_order_of_runs(tmp_path: Path) -> None:
    for run in (2, 3, 1):
        tasks(tmp_path).write(run, row(run, -1, 0))
    table = tasks(tmp_path).table(3)
    votes, records, models = table.votes, table.records, table.models
    assert votes.tolist() == [[1, -1, 0], [2, -1, 0], [3, -1, 0]]
    assert len({bytes(record) for record in records}) == 3 and models is None


def test_the_model_that_counts_is_that_of_the_vote_that_counts(tmp_path: Path) -> None:
    first, second = (RunTasks(tmp_path, JOB, points=3, keep_models=True) for _ in range(2))
    first.make_folders()
    assert first.write(1, row(0, 0, 0), b"the first model")
    assert not second.write(1, row(1, 1, 1), b"the second model")
    first.give_up(2, "nothing came of it")
    vote = first.read(1)
    assert first.model_path(1, vote.model).read_bytes() == b"the first model"
    table = second.table(2)
    votes, models = table.votes, table.models
    assert models is not None and models[1].tolist() == [0] * 32
    assert (votes.tolist(), models[0].tobytes()) == ([[0, 0, 0], [-1, -1, -1]], vote.model)


def test_a_model_that_votes_for_nobody_is_none(tmp_path: Path) -> None:
    """A votes file with a model and no vote of it is refused by whoever reads it."""
    kept = RunTasks(tmp_path, JOB, points=2, keep_models=True, ranked=3)
    kept.make_folders()
    kept.write(1, ballot_of(np.full((2, 3), np.nan), ranked=True), b"weights that are finite, whose scores are not")
    assert kept.read(1).model == NO_MODEL and not list(tmp_path.rglob("*.safetensors"))


def test_a_model_that_is_swapped_after_its_vote_has_another_name(tmp_path: Path) -> None:
    kept = RunTasks(tmp_path, JOB, points=3, keep_models=True)
    kept.make_folders()
    kept.write(1, row(0, 1, 2), b"a model")
    path = kept.path(1)
    other = hashlib.sha256(b"another").digest()
    path.write_bytes(path.read_bytes().replace(kept.read(1).model, other))
    with pytest.raises(ConflictError):
        kept.read(1)


@pytest.mark.parametrize("how", ["another number", "another job", "edited"])
def test_a_foreign_or_edited_run_is_refused(tmp_path: Path, how: str) -> None:
    tasks(tmp_path).write(1, row(0, 1, 2))
    path = tasks(tmp_path).path(1)
    if how == "another number":
        os.rename(path, tasks(tmp_path).path(2))
        reader, run = tasks(tmp_path), 2
    elif how == "another job":
        reader, run = tasks(tmp_path, "cd" * 32), 1
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        reader, run = tasks(tmp_path), 1
    with pytest.raises(ConflictError):
        reader.read(run)


def test_a_cut_off_run_is_refused(tmp_path: Path) -> None:
    tasks(tmp_path).write(1, row(0, 1, 2))
    path = tasks(tmp_path).path(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError):
        tasks(tmp_path).read(1)


def test_a_killed_writer_leaves_no_half_of_a_run(tmp_path: Path) -> None:
    """Whatever moment a process is killed at, the runs that are there can be read."""
    tasks(tmp_path)
    program = (
        "import numpy as np; from pathlib import Path; from dpclean.certify.run_tasks import RunTasks\n"
        f"tasks = RunTasks(Path({str(tmp_path)!r}), {JOB!r}, 3)\n"
        "print(1, flush=True)\n"
        "for run in range(1, 100000): tasks.write(run, np.zeros(3, np.int32))"
    )
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline()
    while not tasks(tmp_path).done():
        assert writer.poll() is None
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    done = tasks(tmp_path).done()
    assert done
    assert all(tasks(tmp_path).read(run).row.tolist() == [0, 0, 0] for run in done)


def test_giving_up_is_a_vote_for_nobody_with_its_reason(tmp_path: Path) -> None:
    tasks(tmp_path).give_up(4, "run 4: the trainer left with exit code 1")
    assert tasks(tmp_path).read(4).row.tolist() == [-1, -1, -1]
    assert tasks(tmp_path).failed() == {4: "run 4: the trainer left with exit code 1"}
