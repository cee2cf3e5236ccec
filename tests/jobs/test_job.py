"""The one form of a long command: what is refused, gone on with, found complete; nothing that was done is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpclean.errors import ConflictError, InputError, Interrupted
from dpclean.jobs.job import Call, Hopeless, Job, Tell, run
from dpclean.jobs.record import Json, Record, differences
from dpclean.progress import Progress

STEPS = 4


class Counting(Job[dict[str, Any]]):
    """Counts to STEPS, one file a step, and leaves their sum."""

    kind = "count"
    marks = ("sum.json",)

    def __init__(self, out: Path, source: Path, **asked: Any) -> None:
        super().__init__(out)
        self.source = source
        self.asked = {"by": 1, "of": {"name": "x", "edge": 8}, **asked}
        self.machine = "here"
        self.at_step: Callable[[int], object] = lambda _: None
        self.done: list[int] = []

    def inputs(self) -> list[Path]:
        return [self.source]

    def parameters(self) -> Json:
        return self.asked

    def environment(self) -> Json:
        return {"machine": self.machine}

    def made_with(self) -> Json:
        made: Json = json.loads((self.out / "sum.json").read_text())["parameters"]
        return made

    def begin(self) -> Json:
        return {"first": self.source.read_text()}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        for number in range(STEPS):
            path = self.staging.work / str(number)
            if not path.exists():
                self.at_step(number)
                path.write_text(str(number * self.asked["by"]))
                self.done.append(number)
            tell(Progress(number + 1, STEPS, "steps"))
            if stop.is_set():
                raise Interrupted("stopped", "the same command goes on")
        return True

    def save(self, record: Record) -> None:
        total = sum(int((self.staging.work / str(number)).read_text()) for number in range(STEPS))
        told = {"sum": total, "first": record.found["first"], "parameters": record.parameters}
        (self.staging.partial / "sum.json").write_text(json.dumps(told))

    def result(self, call: Call) -> dict[str, Any]:
        return {**json.loads((self.out / "sum.json").read_text()), "complete": call.already_complete}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("begun with this")
    return path


def interrupt(_: int) -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted(out: Path, source: Path) -> None:
    job = Counting(out, source)
    job.at_step = lambda number: interrupt(number) if number == 1 else None
    with pytest.raises(Interrupted):
        run(job, overwrite=False)


def test_what_was_stopped_goes_on_and_what_is_complete_is_left_alone(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    interrupted(out, source)
    source.write_text("changed since")
    again = Counting(out, source)
    assert run(again, overwrite=False)["sum"] == 6 and again.done == [2, 3]
    elsewhere = Counting(out, source)
    elsewhere.machine = "there"  # of no account, once it is complete
    told = run(elsewhere, overwrite=False)
    assert (told["complete"], told["first"], elsewhere.done) == (True, "begun with this", [])
    assert run(Counting(out, source), overwrite=True)["first"] == "changed since"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_what_went_on_is_to_the_byte_what_was_never_stopped(tmp_path: Path, source: Path) -> None:
    interrupted(tmp_path / "stopped", source)
    for out in (tmp_path / "stopped", tmp_path / "never"):
        run(Counting(out, source), overwrite=False)
    assert (tmp_path / "stopped" / "sum.json").read_bytes() == (tmp_path / "never" / "sum.json").read_bytes()


def test_other_parameters_another_machine_and_another_command_are_refused(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    interrupted(out, source)
    with pytest.raises(ConflictError, match="out' was begun with by 1; this command asks for by 2"):
        run(Counting(out, source, by=2), overwrite=False)
    with pytest.raises(ConflictError, match="with of edge 8; this command asks for of edge 9"):
        run(Counting(out, source, of={"name": "x", "edge": 9}), overwrite=False)
    elsewhere, other = Counting(out, source), Counting(out, source)
    elsewhere.machine, other.kind = "there", "recount"  # type: ignore[misc]
    with pytest.raises(ConflictError, match="begun with machine here; here it would go on with machine there"):
        run(elsewhere, overwrite=False)
    with pytest.raises(ConflictError, match="was begun by 'dpclean count'"):
        run(other, overwrite=False)
    assert run(Counting(out, source), overwrite=False)["sum"] == 6  # nothing of it was lost
    with pytest.raises(ConflictError, match="was made with by 1; this command asks for by 2"):
        run(Counting(out, source, by=2), overwrite=False)


def test_a_look_ahead_refuses_what_the_command_would_and_touches_nothing(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    assert not Counting(out, source).foresee(overwrite=False) and list(tmp_path.iterdir()) == [source]
    interrupted(out, source)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = Counting(out, source)
    other.kind = "recount"  # type: ignore[misc]
    for job, words in ((Counting(out, source, by=2), "was begun with by 1"), (other, "was begun by 'dpclean count'")):
        with pytest.raises(ConflictError, match=words):
            job.foresee(overwrite=False)
        assert not job.foresee(overwrite=True)
    assert not Counting(out, source).foresee(overwrite=False)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    run(Counting(out, source), overwrite=False)
    assert Counting(out, source).foresee(overwrite=False) and not Counting(out, source).foresee(overwrite=True)
    with pytest.raises(ConflictError, match="was made with by 1; this command asks for by 2"):
        Counting(out, source, by=2).foresee(overwrite=False)


def test_an_out_of_other_making_or_at_an_input_is_refused_whatever_is_asked(tmp_path: Path, source: Path) -> None:
    for place in ("mine", "file"):
        out = tmp_path / place
        if place == "mine":
            out.mkdir()
            (out / "thesis.txt").write_text("years of work")
        else:
            out.write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(ConflictError, match="not made by 'dpclean count'" if place == "mine" else "is a file"):
                run(Counting(out, source), overwrite=overwrite)
    for out in (source, tmp_path):
        with pytest.raises(ConflictError, match="the input"):
            run(Counting(out, source), overwrite=True)


def test_hopeless_work_leaves_nothing_and_other_failures_leave_what_is_done(tmp_path: Path, source: Path) -> None:
    def fail(hopeless: bool) -> Callable[[int], None]:
        def at(number: int) -> None:
            if number == 2:
                error = InputError("this cannot be counted", "count something else")
                raise Hopeless(error) if hopeless else error

        return at

    for hopeless, left in ((False, ["job.json", "partial", "work"]), (True, None)):
        job = Counting(tmp_path / "out", source)
        job.at_step = fail(hopeless)
        with pytest.raises(InputError, match="cannot be counted"):
            run(job, overwrite=False)
        home = tmp_path / ".out.dpclean"
        assert (sorted(p.name for p in home.iterdir() if p.name != ".gitignore") if left else home.exists()) == (
            left or False
        )


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from dpclean.jobs import job, staging
from test_job import Counting
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr({module}, {name!r}, die)
job.run(Counting(Path(sys.argv[1]), Path(sys.argv[2])), overwrite=False)
"""


@pytest.mark.parametrize(
    ("module", "name", "lost"),
    [
        ("job", "write_record", True),  # all but the record is there: nothing was begun
        ("staging", "sync_file_system", False),  # all is written, and OUT is not made yet
        ("staging", "sync_folder", False),  # OUT is made, and what the job needed lies there still
    ],
)
def test_a_kill_at_the_edges_costs_nothing_that_was_done(
    tmp_path: Path, source: Path, module: str, name: str, lost: bool
) -> None:
    out = tmp_path / "out"
    program = KILLED.format(tests=str(Path(__file__).parent), module=module, name=name)
    done = subprocess.run([sys.executable, "-c", program, str(out), str(source)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    again = Counting(out, source)
    assert run(again, overwrite=False)["sum"] == 6
    assert again.done == (list(range(STEPS)) if lost else [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_differences_are_told_as_both_have_them() -> None:
    old = {"sigma": 0.25, "same": 1, "digest": "ab" * 32, "of": {"a": 1, "b": [1]}, "gone": {"x": "y"}}
    new = {"sigma": 0.5, "same": 1, "digest": "cd" * 32, "of": {"a": 1, "b": []}, "max_pixels": None, "gone": None}
    assert differences(old, old) is None
    assert differences(old, new) == (
        f"sigma 0.25, digest {'ab' * 8}..., of b [1], gone (x y)",
        f"sigma 0.5, digest {'cd' * 8}..., of b none, gone none",
    )
