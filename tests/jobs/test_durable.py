"""Files are whole or not there, and whatever the system refuses is said with the path."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from dpclean.errors import ConflictError, SetupError
from dpclean.jobs.durable import remove_unfinished, sealed, sync_folder, unsealed, write_durably

LARGEST = 4096  # bytes that a file may have: what is written beyond is cut off by the system, then refused

WRITE = f"""
import resource, sys
from pathlib import Path
from dpclean.errors import SetupError
{{imports}}
resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST}, {LARGEST}))
folder = Path(sys.argv[1])
try:
    {{write}}
except SetupError as error:
    sys.exit(error.message)
"""
WRITERS = {
    "small files": (
        "from dpclean.jobs.durable import write_durably",
        "write_durably(folder / 'file', bytes(10_000))",
    ),
    "votes": (
        "import numpy as np; from dpclean.certify.run_tasks import RunTasks",
        "tasks = RunTasks(folder, '00' * 32, 2000); tasks.make_folders(); tasks.write(1, np.zeros(2000, np.int32))",
    ),
    "why a run failed": (
        "from dpclean.certify.run_tasks import RunTasks",
        "tasks = RunTasks(folder, '00' * 32, 1); tasks.make_folders(); tasks.give_up(1, 'x' * 10_000)",
    ),
    "ledger": (
        "from dpclean.pipeline.ledger import Ledger",
        "Ledger(folder / 'ledger')",
    ),
}


def attempt(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    imports, write = WRITERS[what]
    program = WRITE.format(imports=imports, write=write)
    return subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)


@pytest.mark.parametrize("what", WRITERS)
def test_what_the_system_cuts_off_is_refused_with_its_path_and_never_left_as_whole(tmp_path: Path, what: str) -> None:
    done = attempt(tmp_path, what)
    assert done.returncode == 1 and str(tmp_path) in done.stderr, done
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "ledger"]
    assert left == []


def test_an_image_that_the_system_cuts_off_is_an_error_of_its_write(tmp_path: Path) -> None:
    from dpclean.data.decoding.worker import _write

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, before[1]))
    try:
        assert _write(os.fsencode(tmp_path / "image.png"), bytes(10_000), False) != 0
        assert _write(os.fsencode(tmp_path / "small.png"), bytes(100), False) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    assert write_durably(tmp_path / "file", b"first")
    assert not write_durably(tmp_path / "file", b"second", replace=False)
    assert write_durably(tmp_path / "file", (b"th", b"ird")) and (tmp_path / "file").read_bytes() == b"third"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(SetupError, match="folder"):
        write_durably(tmp_path / "folder", b"")


def test_a_link_where_a_file_is_to_be_is_replaced_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "mine")
    write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "mine").read_text() == "precious" and (tmp_path / "file").read_bytes() == b"new"


def test_the_umask_is_kept_also_where_the_mode_asks_for_less(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_durably(tmp_path / "data", b"")
        write_durably(tmp_path / "key", b"", mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("data", "key")] == [0o640, 0o600]


def test_a_disk_that_cannot_flush_folders_is_good_enough_and_this_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="power cut"):
        sync_folder(Path("/proc/self"))  # a real file system that answers EINVAL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sync_folder(tmp_path)


def test_what_a_kill_left_half_written_can_be_found_and_removed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from dpclean.jobs.durable import write_durably\n"
        "def blocks():\n    yield b'half'\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_durably(Path(sys.argv[1]), blocks())"
    )
    (tmp_path / "deep").mkdir()
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "deep" / "file")])
    assert len(list((tmp_path / "deep").iterdir())) == 1 and not (tmp_path / "deep" / "file").exists()
    (tmp_path / "deep" / "mine").write_text("")
    remove_unfinished(tmp_path, deep=True)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mine"]


def test_rows_of_a_shard_that_the_system_cuts_off_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from dpclean.data.records import DataOptions, Entry
    from dpclean.data.sinks.safetensors_shards import ShardSink
    from dpclean.data.sources.safetensors_shards import ShardSource

    (tmp_path / "raw").mkdir()
    (tmp_path / "out").mkdir()
    save_file({"images": np.zeros((4, 40, 40, 3), np.uint8)}, tmp_path / "raw" / "s.safetensors")
    source = ShardSource(tmp_path / "raw", ("s.safetensors",), DataOptions(), hidden=0)
    sink = ShardSink(source, tmp_path / "out", ())
    (sample, *_) = source.samples([Entry(0, "s.safetensors#0", -1, "s.safetensors", None)], None)  # type: ignore[arg-type]
    sink.put(sample, np.zeros((40, 40, 3), np.uint8))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, before[1]))
    try:
        with pytest.raises(SetupError, match=r"s\.safetensors"):
            sink.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_sealed_comes_back_or_is_named_as_damaged(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    for data in (b"", b"0", bytes(1000)):
        file.write_bytes(sealed(data))
        assert unsealed(file) == data
    whole = sealed(b"work")
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for damaged in (*changed, *(whole[:end] for end in range(len(whole))), whole + b"0", b"work"):
        file.write_bytes(damaged)
        with pytest.raises(ConflictError) as refused:
            unsealed(file)
        assert str(file) in refused.value.message
