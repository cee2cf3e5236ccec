"""Tasks as files: claimed by one, done once, their results written whole, whatever they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from dpclean.jobs.tasks import Tasks, new_worker


def tasks(folder: Path) -> Tasks:
    made = Tasks(folder)
    made.make_folders()
    return made


def test_the_first_to_finish_a_task_has_done_it(tmp_path: Path) -> None:
    assert tasks(tmp_path).finish(1, b"first")
    assert not tasks(tmp_path).finish(1, b"second")
    assert tasks(tmp_path).path(1).read_bytes() == b"first"


def test_a_task_is_claimed_by_one_process_until_that_dies(tmp_path: Path) -> None:
    tasks(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from dpclean.jobs.tasks import Tasks\n"
        f"with Tasks(Path({str(tmp_path)!r}), worker='one').claim(7) as mine:\n"
        "    print(mine, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with tasks(tmp_path).claim(7) as mine:
            assert not mine
        assert tasks(tmp_path).claimed_by("one") == 7
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with tasks(tmp_path).claim(7) as mine:
        assert mine


def test_workers_with_the_same_number_on_hosts_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    """As in two containers: nothing that a claim holds is taken from host or process, and all of it differs."""
    one, other = tasks(tmp_path), tasks(tmp_path)
    with one.claim(7) as mine, other.claim(8) as theirs:
        assert mine and theirs
        assert (one.claimed_by(one.worker), one.claimed_by(other.worker)) == (7, 8)
        assert one.claimed_by(str(os.getpid())) is None
    assert len({new_worker() for _ in range(100)}) == 100


def test_files_that_two_write_at_once_do_not_meet(tmp_path: Path) -> None:
    """Leftovers of a killed writer, whatever their names, stand in nobody's way."""
    path = tasks(tmp_path).path(1)
    path.parent.mkdir()
    for name in (f"{path.name}.new", f"{path.stem}.{os.uname().nodename}.{os.getpid()}"):
        (path.parent / name).mkdir()
    assert tasks(tmp_path).finish(1, b"whole")
    assert tasks(tmp_path).path(1).read_bytes() == b"whole" and tasks(tmp_path).done() == {1}


def test_a_finished_task_is_claimed_by_nobody(tmp_path: Path) -> None:
    tasks(tmp_path).finish(7, b"done")
    with tasks(tmp_path).claim(7) as mine:
        assert not mine


def test_missing_and_prefix_count_from_task_1(tmp_path: Path) -> None:
    for task in (1, 2, 4):
        tasks(tmp_path).finish(task, b"done")
    assert tasks(tmp_path).missing(5) == [3, 5]
    assert tasks(tmp_path).prefix() == 2


def test_what_failed_is_done_with_nothing_and_says_why(tmp_path: Path) -> None:
    tasks(tmp_path).give_up(3, "it ended its process twice")
    assert tasks(tmp_path).failed() == {3: "it ended its process twice"} and tasks(tmp_path).done() == {3}
    assert tasks(tmp_path).path(3).read_bytes() == b""


def test_what_comes_after_the_job_is_complete_is_dropped(tmp_path: Path) -> None:
    late = tasks(tmp_path / "work")
    (tmp_path / "work").rename(tmp_path / "gone")
    assert not late.finish(1, b"late") and not (tmp_path / "work").exists()
    with late.claim(2) as mine:
        assert not mine
