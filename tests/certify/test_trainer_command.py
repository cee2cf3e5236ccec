"""A trainer that is any program: bound to its files, dead with its worker, and never given a path by a stranger."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpclean.certify.job import certify
from dpclean.certify.trainer_command import CommandTrainer, RunFailed, check_class_names
from dpclean.errors import ConflictError, InputError
from dpclean.jobs.child_process import mortal_group
from dpclean.jobs.command import Command
from tests.certify.conftest import ALWAYS_RED, trainer_command

IMAGES = [np.full((8, 8, 3), 40 * number, np.uint8) for number in range(4)]
LABELS = np.array([0, 1, 0, 1])


def make(tmp_path: Path, command: str, **options: Any) -> CommandTrainer:
    fixed = {
        "files": Command(command, "--trainer").files(),
        "timeout": 60.0,
        "classes": ("blue", "red"),
        "kind": "folder",
    }
    return CommandTrainer(command, scratch=tmp_path / "scratch", **{**fixed, **options})


def votes(trainer: CommandTrainer, number: int = 1) -> list[int]:
    return trainer.run(number, IMAGES, LABELS, IMAGES[:3]).tolist()


# -- names of classes


SHARD_NAMES = ["{outside}", "../../../outside", "", ".", "..", ".hidden", "a/b", "nul\0", "x" * 256, "\ud800", "a\nb"]


@pytest.mark.parametrize("name", SHARD_NAMES, ids=ascii)
def test_a_name_in_a_shard_is_no_path(tmp_path: Path, transparent: str, name: str) -> None:
    """Images of two sizes: the copy for the trainer is a folder a class."""
    name = name.replace("{outside}", str(tmp_path / "outside"))
    (tmp_path / "raw").mkdir()
    for side in (16, 20):
        pixels = np.random.default_rng(side).integers(0, 255, (10, side, side, 3)).astype(np.uint8)
        tensors = {"images": pixels, "labels": np.arange(10) % 2}
        save_file(tensors, tmp_path / f"raw/{side}.safetensors", {"class_names": json.dumps([name, "red"])})
    before = sorted(tmp_path.rglob("*"))
    trainer = trainer_command(tmp_path, ALWAYS_RED)
    few: dict[str, Any] = {"runs": 4, "bound": "union", "alpha": "0.4", "workers": 1, "device": "cpu"}
    with pytest.raises(InputError, match="name|line break"):
        certify(tmp_path / "raw", tmp_path / "out", sigma="0.25", denoiser=transparent, trainer=trainer, **few)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "trainer"])


def test_names_of_one_shard_need_not_be_those_of_folders() -> None:
    check_class_names(["AC/DC", "", "x" * 300], folders=False)
    check_class_names(["red", "dark red", "grün"], folders=True)
    for names, word in ((["a", "b", "a"], "twice"), (["a\r"], "line break")):
        with pytest.raises(InputError, match=word):
            check_class_names(names, folders=False)


def test_class_names_with_odd_separators_can_be_predicted(tmp_path: Path) -> None:
    program = 'cd "$2" && for p in *; do printf "%s\\ta\\tb\\302\\205c\\r\\n" "$p"; done > "$3/predictions.tsv"'
    trainer = make(tmp_path, trainer_command(tmp_path, program), classes=("red", "a\tb\u0085c"))
    assert votes(trainer) == [1, 1, 1]


def test_a_point_that_is_told_twice_is_refused(tmp_path: Path) -> None:
    program = ALWAYS_RED + 'printf "000001.png\\tblue\\n" >> "$3/predictions.tsv"'
    with pytest.raises(RunFailed, match=r"'000001\.png' twice"):
        votes(make(tmp_path, trainer_command(tmp_path, program)))


@pytest.mark.parametrize("name", ["9" * 5000, "\u0661", "000003", ""])
def test_a_point_that_was_not_asked_is_refused(name: str, tmp_path: Path) -> None:
    program = f'cd "$2" && printf \'{name}.png\\tred\\n\' > "$3/predictions.tsv"'
    with pytest.raises(RunFailed, match="which is not a point, a tab and a class") as failed:
        votes(make(tmp_path, trainer_command(tmp_path, program)))
    assert len(failed.value.message) < 400


# -- scores

WRITES_SCORES = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
scores = np.array([[1, 2], [3, 0], [2, 2]], np.float64)
names = ["red", "blue"]
{change}
save_file({"scores": scores}, Path(sys.argv[3]) / "scores.safetensors", {"class_names": json.dumps(names)})
"""


def scored(tmp_path: Path, change: str = "") -> str:
    return trainer_command(tmp_path, WRITES_SCORES.replace("{change}", change))


def test_scores_are_rankings_or_votes_by_the_names_of_their_columns(tmp_path: Path) -> None:
    command = scored(tmp_path, "(Path(sys.argv[3]) / 'predictions.tsv').write_text('not read')")
    assert votes(make(tmp_path, command, ranked=True)) == [[0, 1], [1, 0], [0, 1]]  # of equal ones the lowest
    assert votes(make(tmp_path, command)) == [0, 1, 0]
    endless = scored(tmp_path, "scores[1, 0] = np.inf")
    assert votes(make(tmp_path, endless, ranked=True)) == [[0, 1], [65535, 65535], [0, 1]]
    assert votes(make(tmp_path, endless)) == [0, -1, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("scores = scores.T.copy()", r"scores of \[2, 3\], not float32 \[3, 2\]"),
        ("scores = scores[:2]", r"scores of \[2, 2\]"),
        ("scores = scores.astype(int)", "no tensor 'scores'"),
        ("names = ['red']", "does not name the 2 classes"),
        ("names = ['red', 'red']", "does not name the 2 classes"),
        ("names = {'red': 0, 'blue': 1}", "does not name the 2 classes"),
        ("names = ['red', 'green']", "does not name the 2 classes"),
        ("(Path(sys.argv[3]) / 'scores.safetensors').write_bytes(b'x'); sys.exit()", "no safetensors file"),
        ("(Path(sys.argv[3]) / 'scores.safetensors').mkdir(); sys.exit()", "it is a folder"),
        ("sys.exit()", "wrote no scores.safetensors"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        votes(make(tmp_path, scored(tmp_path, change), ranked=True))


# -- the program is one and the same


def test_the_files_of_a_command_are_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf.toml").write_text("a")
    (tmp_path / "train.py").write_text("b")
    monkeypatch.chdir(tmp_path)
    python = shlex.quote(sys.executable)
    files = Command(f"{python} train.py --config=conf.toml --epochs=3 {{data}} {{out}}", "--trainer").files()
    assert list(files) == [sys.executable, "train.py", "--config=conf.toml"]
    (tmp_path / "conf.toml").write_text("c")
    changed = Command(f"{python} train.py --config=conf.toml", "--trainer").files()
    assert [name for name in files if files[name] != changed[name]] == ["--config=conf.toml"]
    assert list(Command("sh -c 'exit 0' nothing", "--trainer").files()) == ["sh"]


def test_a_program_that_changes_ends_the_job(tmp_path: Path) -> None:
    command = trainer_command(tmp_path, ALWAYS_RED)
    trainer = make(tmp_path, command)
    assert votes(trainer, 1) == [1, 1, 1]
    (tmp_path / "trainer").write_text(ALWAYS_RED.replace("red", "blue"))
    with pytest.raises(ConflictError, match="trainer' has changed"):
        votes(trainer, 2)
    (tmp_path / "trainer").unlink()
    with pytest.raises(ConflictError, match="trainer' has changed"):
        votes(trainer, 2)


def test_a_job_with_another_program_is_not_gone_on_with(raw: Path, tmp_path: Path, transparent: str) -> None:
    few: dict[str, Any] = {"runs": 6, "bound": "union", "alpha": "0.1", "workers": 1, "device": "cpu"}
    trainer = trainer_command(tmp_path, ALWAYS_RED)
    # the program changes itself in its second run, so the worker stops before the third
    (tmp_path / "trainer").write_text(ALWAYS_RED + 'case "$3" in */0000002/out) echo "# other" >> "$0";; esac\n')
    job: dict[str, Any] = {"sigma": "0.25", "denoiser": transparent, "trainer": trainer, **few}
    with pytest.raises(ConflictError, match="trainer' has changed"):
        certify(raw, tmp_path / "out", **job)
    with pytest.raises(ConflictError, match="trainer-files"):
        certify(raw, tmp_path / "out", **job)
    text = (tmp_path / "trainer").read_text().removesuffix("# other\n")
    (tmp_path / "trainer").write_text(text.replace('echo "# other" >> "$0"', "true"))
    with pytest.raises(ConflictError, match="trainer-files"):
        certify(raw, tmp_path / "out", **job)
    certify(raw, tmp_path / "out", **job, overwrite=True)


# -- nothing lives on


def wait_for(path: Path) -> list[int]:
    """Process numbers that a test's program has written into a file."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(text) for text in path.read_text().split()]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


LINGERS = """
sleep 300 &
echo $$ $! > {pids}.new; mv {pids}.new {pids}
: "$2"; wait
"""

WORKER = """
import sys
from pathlib import Path
import numpy as np
from dpclean.certify.trainer_command import CommandTrainer
from dpclean.jobs.command import Command
command, scratch = sys.argv[1:]
files = Command(command, "--trainer").files()
trainer = CommandTrainer(command, files, 300.0, ("blue", "red"), Path(scratch), "folder")
trainer.run(1, [np.zeros((8, 8, 3), np.uint8)] * 2, np.array([0, 1]), [np.zeros((8, 8, 3), np.uint8)])
"""


def test_a_program_dies_with_its_worker_however_that_ends(tmp_path: Path) -> None:
    command = trainer_command(tmp_path, LINGERS.replace("{pids}", shlex.quote(str(tmp_path / "pids"))))
    worker = subprocess.Popen([sys.executable, "-c", WORKER, command, str(tmp_path / "scratch")])
    pids = wait_for(tmp_path / "pids")
    worker.kill()
    worker.wait()
    assert all(gone(pid) for pid in pids)


def test_what_a_program_leaves_behind_ends_with_its_run(tmp_path: Path) -> None:
    program = LINGERS.replace("{pids}", shlex.quote(str(tmp_path / "pids"))).replace("wait", ALWAYS_RED)
    assert votes(make(tmp_path, trainer_command(tmp_path, program))) == [1, 1, 1]
    assert all(gone(pid) for pid in wait_for(tmp_path / "pids"))


def test_a_program_that_ends_its_own_group_takes_only_its_run_with_it(tmp_path: Path) -> None:
    trainer = make(tmp_path, trainer_command(tmp_path, ': "$2"; trap "" TERM; kill -TERM 0; exit 3'))
    with pytest.raises(RunFailed, match="exit code 3"):
        votes(trainer)
    with mortal_group() as group:
        os.killpg(group, signal.SIGKILL)  # the guard too


def test_a_file_that_the_machine_does_not_let_be_read_is_no_failed_run(tmp_path: Path) -> None:
    """No more files may be opened, say, when the trainer has ended: that is by nothing that it was given."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))

    trainer = make(tmp_path, trainer_command(tmp_path, 'sleep 0.5; : "$2"'))
    try:
        with pytest.raises(OSError) as refused:
            trainer.run(1, IMAGES, LABELS, IMAGES[:3], starve)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert refused.value.errno == errno.EMFILE
