"""How many threads compute: no more than cores are idle, as many as were asked for, and put back afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dpclean.cli import run
from dpclean.denoiser_training.fit import fit
from dpclean.errors import ConflictError, Interrupted
from dpclean.threads import (
    _idle_seconds,
    _quota,
    choose_threads,
    computing_as_begun,
    computing_with,
    cores,
    idle_cores,
)
from tests.classifier_training.commands import train
from tests.networks import make_transparent
from tests.train.pictures import make_folder

MINE = sorted(os.sched_getaffinity(0))


@pytest.fixture
def busy() -> Iterator[None]:
    """Every core of this process is wanted by two other programs, and torch's number is left to dpclean."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1) for _ in MINE * 2
    ]
    for loop in loops:
        assert loop.stdout is not None and loop.stdout.readline()
    yield
    for loop in loops:
        loop.kill()
        loop.communicate()


def test_where_others_have_the_cores_one_thread_is_left(busy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert idle_cores() == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads() == (1 if len(MINE) > 1 else None)
    assert choose_threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads() is None


def test_idle_time_is_that_of_the_cores_of_this_process(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    lines = [f"cpu{core} 900 0 900 {300 if core in MINE else 7_000} 100 0 0 0 0 0" for core in range(max(MINE) + 2)]
    stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 1 2 3"]))
    assert _idle_seconds(stat) == len(MINE) * 400 / os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu\n")
    assert _idle_seconds(stat) is None and _idle_seconds(tmp_path / "none") is None


def test_the_quota_of_a_container_counts(tmp_path: Path) -> None:
    own, inner = tmp_path / "cgroup", tmp_path / "root" / "a" / "b"
    inner.mkdir(parents=True)
    own.write_text("3:cpuset:/\n0::/a/b\n")
    assert _quota(tmp_path / "root", own) == float("inf")
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert _quota(tmp_path / "root", own) == 1.5
    assert 1 <= cores() <= len(MINE)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with computing_with(before + 2):
        assert torch.get_num_threads() == before + 2
        with computing_with(None):
            assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


def test_every_command_takes_the_number_that_it_is_given(tmp_path: Path, hasty: None) -> None:
    from dpclean import sanitize

    seen: list[int] = []
    threads = torch.get_num_threads() + 1

    def look(_: Any) -> None:
        seen.append(torch.get_num_threads())

    raw, denoiser = make_folder(tmp_path / "raw", 12), str(make_transparent(tmp_path / "denoiser"))
    sanitize(raw, tmp_path / "clean", sigma=0.1, denoiser=denoiser, workers=1, threads=threads, progress=look)
    train(tmp_path / "clean", tmp_path / "model", recipe="tiny@12", threads=threads, progress=look)
    fit([raw], tmp_path / "fitted", init=denoiser, steps=1, batch_size=2, workers=1, threads=threads, progress=look)
    assert set(seen) == {threads} and len(seen) > 3
    assert json.loads((tmp_path / "model" / "model.json").read_text())["host"]["threads"] == str(threads)
    for command in (["sanitize", "raw", "--sigma", "0.1"], ["train", "clean"], ["denoiser", "fit", "raw"]):
        assert run([*command, "--out", str(tmp_path / "new"), "--threads", "0"]) == 2


UNSET: dict[str, Any] = {"threads": None}  # as by default, where the tests' own commands say one


def test_a_job_goes_on_with_the_threads_that_it_was_begun_with(tmp_path: Path, hasty: None) -> None:
    from dpclean import sanitize

    def stop(_: Any) -> None:
        seen.append(torch.get_num_threads())
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT)

    threads = torch.get_num_threads() + 1
    raw, denoiser = make_folder(tmp_path / "raw", 12), str(make_transparent(tmp_path / "denoiser"))
    sanitize(raw, tmp_path / "clean", sigma=0.1, denoiser=denoiser, workers=1)
    for command in (
        lambda **options: sanitize(
            raw, tmp_path / "again", sigma=0.1, denoiser=denoiser, workers=1, batch_size=1, **options
        ),
        lambda **options: train(tmp_path / "clean", tmp_path / "model", recipe="tiny@12", **UNSET | options),
        lambda **options: fit([raw], tmp_path / "fit", init=denoiser, steps=2, batch_size=2, workers=1, **options),
    ):
        seen: list[int] = []
        with pytest.raises(Interrupted):
            command(threads=threads, progress=stop)
        with pytest.raises(ConflictError, match=f"begun with threads {threads}; .* with threads {threads + 1}"):
            command(threads=threads + 1)
        command(progress=stop)
        assert set(seen) == {threads} and len(seen) > 1


def test_what_is_done_anew_is_done_with_the_threads_of_the_rest(tmp_path: Path) -> None:
    from dpclean import sanitize

    threads = torch.get_num_threads() + 1
    raw, denoiser = make_folder(tmp_path / "raw", 12), str(make_transparent(tmp_path / "denoiser"))
    given: dict[str, Any] = {"sigma": 0.1, "denoiser": denoiser, "workers": 1}
    sanitize(raw, tmp_path / "clean", **given, threads=threads)
    first, second, *_ = sorted(raw.rglob("*.png"))
    shutil.copy(second, first)
    sanitize(raw, tmp_path / "clean", **given, update=True)
    assert json.loads((tmp_path / "clean" / "dpclean.json").read_text())["host"]["threads"] == str(threads)


@pytest.mark.parametrize("threads", [None, "many", 0, 10**9])
def test_a_number_of_threads_that_nobody_began_with_is_not_tried(threads: Any) -> None:
    before = torch.get_num_threads()
    with computing_as_begun({"threads": threads}, None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_the_program_waits_without_spinning_unless_told_to(given: dict[str, str], found: str) -> None:
    program = "import atexit, os; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY']))\n"
    program += "from dpclean.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", program, "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == found
