"""Staging, lock, commit and key: OUT is never half there, and one process works on it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dpclean.errors import ConflictError, SetupError
from dpclean.jobs.key_file import read_key, write_key
from dpclean.jobs.staging import Staging

HOLD = (
    "import sys, time; from pathlib import Path; from dpclean.jobs.staging import Staging\n"
    "with Staging(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def hold(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    holder = hold(tmp_path / "out")
    try:
        with pytest.raises(ConflictError) as refusal, Staging(tmp_path / "out"):
            pass
        assert str(holder.pid) in refusal.value.message and os.uname().nodename in refusal.value.message
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    holder = hold(tmp_path / "out")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Staging(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_commit_makes_out_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with Staging(tmp_path / "out") as staging:
        staging.start()
        (staging.partial / "a").mkdir()
        (staging.partial / "a" / "x").write_text("new")
        assert not staging.out.exists()
        staging.commit()
    assert (tmp_path / "out" / "a" / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_replacing_keeps_the_old_out_until_the_new_one_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_text("old")
    with Staging(out) as staging:
        staging.start()
        (staging.partial / "x").write_text("new")
        assert (out / "x").read_text() == "old"
        staging.commit()
    assert (out / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_replacement_cut_off_between_its_renames_loses_neither(tmp_path: Path) -> None:
    old = tmp_path / ".out.dpclean" / "replaced"
    old.mkdir(parents=True)
    (old / "x").write_text("old")
    with Staging(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "x").read_text() == "old"


def test_a_replacement_cut_off_after_its_renames_leaves_no_litter(tmp_path: Path) -> None:
    for name in ("out", ".out.dpclean/replaced"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text(name)
    with Staging(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "x").read_text() == "out"


def test_out_that_is_a_link_means_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    assert Staging(tmp_path / "link").out == tmp_path / "disk" / "real"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError), Staging(tmp_path / "file" / "out"):
        pass


def test_the_key_file_is_secret_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key(path, bytes(range(32)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == bytes(range(32))


@pytest.mark.parametrize("damage", ["missing", "readable", "short", "garbled"])
def test_a_key_file_that_cannot_be_trusted_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "key"
    write_key(path, bytes(32))
    if damage == "missing":
        path.unlink()
    elif damage == "readable":
        path.chmod(0o644)
    else:
        path.write_text("00ff" if damage == "short" else "no hex")
    with pytest.raises(ConflictError):
        read_key(path)


def test_the_lock_file_names_its_holder_in_json(tmp_path: Path) -> None:
    with Staging(tmp_path / "out"):
        fields = json.loads((tmp_path / ".out.dpclean" / "lock").read_text())
    assert fields["pid"] == os.getpid()


def test_the_folder_beside_out_is_its_owner_s_alone_and_git_does_not_see_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with Staging(tmp_path / "out") as staging:
        staging.start()
        write_key(staging.key, bytes(32))
    assert staging.home.stat().st_mode & 0o777 == 0o700
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == "" and {p.name for p in staging.home.iterdir()} == {".gitignore", "key", "partial", "work"}


@pytest.mark.parametrize("name", [".out.dpclean", ".out.dpclean/lock"])
def test_links_laid_beside_out_are_not_followed(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine"
    if name == ".out.dpclean":
        mine.mkdir()
    else:
        mine.write_text("precious")
        (tmp_path / ".out.dpclean").mkdir()
    (tmp_path / name).symlink_to(mine)
    with pytest.raises((ConflictError, SetupError), match="dpclean"), Staging(tmp_path / "out"):
        pass
    assert mine.read_text() == "precious" if mine.is_file() else list(mine.iterdir()) == []


IN_A_MOUNT = """
mount -t tmpfs tmpfs {here} && cd {here} && mkdir disk lower upper out merged || exit 77
{prepare} || exit 77
exec {python} -c "
import sys; from pathlib import Path; from dpclean.errors import SetupError; from dpclean.jobs.staging import Staging
with Staging(Path(sys.argv[1])) as staging:
    try:
        staging.start()
    except SetupError as error:
        print(error.message); print(error.remedy); sys.exit(4)
" {out}
"""


@pytest.mark.parametrize(
    ("prepare", "out", "said"),
    [
        ("mount --bind disk out", "out", "mount point"),
        ("mount --bind disk out && touch out/x", "out", "mount point"),
        (
            "mount -t tmpfs tmpfs upper && mkdir -p upper/u upper/w lower/old && touch lower/old/x &&"
            " mount -t overlay overlay -o lowerdir=lower,upperdir=upper/u,workdir=upper/w,redirect_dir=off merged",
            "merged/old",
            "overlay",
        ),
    ],
)
def test_an_out_that_no_rename_can_replace_is_refused_before_the_work(
    tmp_path: Path, prepare: str, out: str, said: str
) -> None:
    script = IN_A_MOUNT.format(here=tmp_path, prepare=prepare, python=sys.executable, out=out)
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 4 and said in done.stdout and "--out" in done.stdout, done


def test_an_out_that_a_rename_can_replace_is_left_as_it_is_by_the_trial(tmp_path: Path) -> None:
    for name, content in (("full", ["x"]), ("empty", [])):
        (tmp_path / name).mkdir()
        for file in content:
            (tmp_path / name / file).write_text("old")
        with Staging(tmp_path / name) as staging:
            staging.start()
            assert [path.name for path in staging.out.iterdir()] == content
            assert list(staging.partial.iterdir()) == []


@pytest.mark.parametrize("refused", ["partial", "replaced"])  # at the end, and when it is tried beforehand
def test_where_the_disk_fails_between_the_renames_out_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    staging, rename, failed = Staging(tmp_path / "out"), Path.rename, []
    (staging.out / "class").mkdir(parents=True)

    def fails_once(source: Path, target: Path) -> Path:
        if source.name == refused and not failed:
            failed.append(source)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(SetupError), staging:
        staging.start()
        (staging.partial / "new").touch()
        staging.commit()
    assert failed and os.listdir(staging.out) == ["class"]
