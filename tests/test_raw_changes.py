"""RAW changes while `sanitize` reads it: the frozen listing alone counts, and nothing outside RAW is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import dpclean
from dpclean.data.decoding import pool as workers
from dpclean.data.sources import safetensors_shards as shards
from dpclean.errors import InputError, InternalError
from dpclean.pipeline import work
from dpclean.pipeline.quarantine import list_quarantined
from dpclean.pipeline.results import SanitizeResult
from dpclean.progress import Progress
from tests.networks import make_transparent

PER_CLASS = 12


@pytest.fixture(scope="module")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_transparent(tmp_path_factory.mktemp("denoiser") / "transparent"))


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, committed at once, with little read ahead."""
    monkeypatch.setattr(work, "CHUNK_SAMPLES", 1)
    monkeypatch.setattr(work, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(workers, "LARGEST_CHUNK", 2)
    monkeypatch.setattr(shards, "SLICE_BYTES", 1)


def picture(number: int) -> np.ndarray:
    return np.full((8, 8, 3), (number, 255 - number, 7), np.uint8)


def make_raw(root: Path) -> Path:
    for number in range(3 * PER_CLASS):
        path = root / "abc"[number // PER_CLASS] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    return root


def sanitize(raw: Path, out: Path, denoiser: str, change: Callable[[], object]) -> SanitizeResult:
    """With sigma 0 through a transparent denoiser; the change happens after the first commit."""
    seen: list[Progress] = []

    def tell(progress: Progress) -> None:
        if progress.finished and not seen:
            seen.append(progress)
            change()

    return dpclean.sanitize(raw, out, sigma=0, denoiser=denoiser, dtype="fp32", workers=1, batch_size=1, progress=tell)


def check_names(out: Path) -> set[int]:
    """Every file bears the picture of its name and lies in its folder; their numbers."""
    found = sorted(out.glob("*/*.png"))
    for path in found:
        number = int(path.stem)
        assert path.parent.name == "abc"[number // PER_CLASS]
        np.testing.assert_allclose(np.asarray(Image.open(path)), picture(number), atol=1, err_msg=str(path))
    return {int(path.stem) for path in found}


def reasons(out: Path) -> dict[str, str]:
    return dict(list_quarantined(out))


def test_files_and_folders_that_come_while_the_job_runs_move_nothing(tmp_path: Path, transparent: str) -> None:
    raw = make_raw(tmp_path / "raw")

    def change() -> None:
        (raw / "bb").mkdir()
        for name in ("c/!first.png", "bb/x.png", "!top.png"):
            shutil.copy(raw / "a" / "000.png", raw / name)

    result = sanitize(raw, tmp_path / "out", transparent, change)
    assert result.images == 3 * PER_CLASS and result.quarantined == {}
    assert check_names(tmp_path / "out") == set(range(3 * PER_CLASS))


def test_files_and_folders_that_go_while_the_job_runs_are_left_out_and_move_nothing(
    tmp_path: Path, transparent: str
) -> None:
    raw = make_raw(tmp_path / "raw")

    def change() -> None:
        (raw / "b" / f"{2 * PER_CLASS - 1:03d}.png").unlink()
        (raw / "c").rename(raw / "cc")

    result = sanitize(raw, tmp_path / "out", transparent, change)
    assert result.quarantined == {"vanished": 1 + PER_CLASS}
    assert check_names(tmp_path / "out") == set(range(2 * PER_CLASS - 1))


def test_a_folder_that_becomes_a_link_out_of_raw_is_not_followed(tmp_path: Path, transparent: str) -> None:
    raw, private = make_raw(tmp_path / "raw"), tmp_path / "private"
    private.mkdir()
    for number in range(2 * PER_CLASS, 3 * PER_CLASS):
        Image.fromarray(picture(1)).save(private / f"{number:03d}.png")

    def change() -> None:
        (raw / "c").rename(tmp_path / "away")
        (raw / "c").symlink_to("../private")

    result = sanitize(raw, tmp_path / "out", transparent, change)
    assert result.quarantined == {"outside-root": PER_CLASS}
    assert check_names(tmp_path / "out") == set(range(2 * PER_CLASS))


@pytest.mark.parametrize("how", ["moved", "deleted", "another folder in its place"])
def test_a_raw_that_goes_away_ends_the_job_and_publishes_nothing(tmp_path: Path, transparent: str, how: str) -> None:
    raw, away = make_raw(tmp_path / "raw"), tmp_path / "away"

    def change() -> None:
        if how == "deleted":
            shutil.copytree(raw, away)
            shutil.rmtree(raw)
        else:
            raw.rename(away)
        if how == "another folder in its place":  # as under a disk that was unmounted
            raw.mkdir()

    out = tmp_path / "out"
    with pytest.raises(InputError, match="went away while it was read"):
        sanitize(raw, out, transparent, change)
    assert not out.exists()
    if how == "another folder in its place":
        raw.rmdir()
    away.rename(raw)
    if how != "deleted":  # files vanish one after the other before the folder does
        assert sanitize(raw, out, transparent, lambda: None).quarantined == {}
        assert check_names(out) == set(range(3 * PER_CLASS))


def test_a_raw_that_moves_and_leaves_a_link_to_itself_is_read_on(tmp_path: Path, transparent: str) -> None:
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"

    def change() -> None:
        raw.rename(tmp_path / "away")
        raw.symlink_to("away")

    assert sanitize(raw, out, transparent, change).quarantined == {}
    assert check_names(out) == set(range(3 * PER_CLASS))


def test_no_row_may_be_pending_when_a_job_is_saved(
    tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_raw(tmp_path / "raw")
    monkeypatch.setattr(workers.WorkerPool, "decode", lambda *_: iter(()))
    with pytest.raises(InternalError, match=f"{3 * PER_CLASS} inputs have no answer"):
        sanitize(raw, tmp_path / "out", transparent, lambda: None)
    assert not (tmp_path / "out").exists()


def make_shards(root: Path) -> Path:
    root.mkdir()
    for shard in "abc":
        numbers = range("abc".index(shard) * PER_CLASS, ("abc".index(shard) + 1) * PER_CLASS)
        rows = np.stack([picture(number) for number in numbers])
        save_file({"images": rows, "labels": np.array(numbers)}, root / f"{shard}.safetensors")
    return root


@pytest.mark.parametrize("how", ["cut", "deleted", "replaced"])
def test_a_shard_that_changes_before_it_is_reached_costs_its_rows_alone(
    tmp_path: Path, transparent: str, how: str
) -> None:
    raw = make_shards(tmp_path / "raw")
    victim = raw / "b.safetensors"

    def change() -> None:
        if how == "cut":
            os.truncate(victim, victim.stat().st_size // 2)
        elif how == "deleted":
            victim.unlink()
        else:
            shutil.copy(raw / "c.safetensors", tmp_path / "new")
            (tmp_path / "new").rename(victim)

    result = sanitize(raw, tmp_path / "out", transparent, change)
    assert result.quarantined == {"truncated" if how == "cut" else "vanished": PER_CLASS}
    for shard in "ac":
        found = load_file(tmp_path / "out" / f"{shard}.safetensors")
        for row, number in zip(found["images"], found["labels"].tolist(), strict=True):
            np.testing.assert_allclose(row, picture(number), atol=1)
        assert len(found["labels"]) == PER_CLASS
    assert not (tmp_path / "out" / "b.safetensors").exists()
    assert set(reasons(tmp_path / "out")) == {f"b.safetensors#{row}" for row in range(PER_CLASS)}
