"""From RAW to OUT: the right pixels under the right names, resumed, refused, quarantined."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import dpclean
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import read_ancestry
from dpclean.denoise.denoiser import AHEAD, Denoiser
from dpclean.errors import ConflictError, InputError, Interrupted, UsageError
from dpclean.noise import add_noise
from dpclean.noise.keys import commitment, key_from_seed
from dpclean.pipeline import dry_run, work
from dpclean.pipeline.ledger import Ledger
from dpclean.pipeline.quarantine import list_quarantined
from dpclean.pipeline.results import SanitizeResult
from dpclean.progress import Progress
from tests.networks import make_denoiser, make_transparent

SIGMA, SEED = 0.25, 7


@pytest.fixture(scope="module")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A denoiser through which the noised image can be seen."""
    return str(make_transparent(tmp_path_factory.mktemp("denoiser") / "transparent"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A denoiser with random weights."""
    return str(make_denoiser(tmp_path_factory.mktemp("denoiser") / "small"))


def picture(seed: int, shape: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)


def make_folder(root: Path, count: int = 12) -> dict[str, np.ndarray]:
    """A folder of images in two classes; name -> pixels, in the order of the listing."""
    images = {
        f"{'ab'[i % 2]}/{i:03d}.png": picture(i, ((32, 32, 3), (28, 28, 1), (40, 33, 3))[i % 3]) for i in range(count)
    }
    for name, pixels in images.items():
        save(root / name, pixels)
    return dict(sorted(images.items()))


def sanitize(raw: Path, out: Path, denoiser: str, **options: Any) -> SanitizeResult:
    return dpclean.sanitize(
        raw, out, **{"sigma": SIGMA, "denoiser": denoiser, "dtype": "fp32", "seed": SEED, "workers": 2, **options}
    )


def noised(pixels: np.ndarray, index: int) -> np.ndarray:
    key = key_from_seed(SEED, "sanitize")
    return add_noise(pixels[None], SIGMA, key=key, run=0, indices=np.array([index]))[0].clip(0, 255).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def data_sums(out: Path) -> list[str]:
    """The lines of SHA256SUMS that speak of data."""
    return [line for line in (out / "SHA256SUMS").read_text().splitlines() if not line.endswith("dpclean.json")]


# -- the right pixels under the right names


def test_a_folder_keeps_its_names_classes_and_sizes_and_gets_the_noise_of_its_places(
    tmp_path: Path, transparent: str
) -> None:
    images = make_folder(tmp_path / "raw")
    result = sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert (result.images, result.quarantined) == (len(images), {})
    for index, (name, pixels) in enumerate(images.items()):
        np.testing.assert_array_equal(read(tmp_path / "out" / name), noised(pixels, index), err_msg=name)


def test_a_bad_input_costs_nobody_its_place_its_index_or_its_noise(tmp_path: Path, transparent: str) -> None:
    images = make_folder(tmp_path / "raw")
    names = list(images)
    bad = {names[2]: b"", names[5]: b"no image at all", names[7]: (tmp_path / "raw" / names[7]).read_bytes()[:-30]}
    for name, content in bad.items():
        (tmp_path / "raw" / name).write_bytes(content)
    (tmp_path / "raw" / "a" / "README.txt").write_text("about these images")
    result = sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert result.quarantined == {"empty": 1, "not-an-image": 1, "truncated": 1}
    assert result.left_behind == 1
    assert list_quarantined(tmp_path / "out") == [
        (n, r) for n, r in zip(bad, ("empty", "not-an-image", "truncated"), strict=True)
    ]
    listing = sorted([*names, "a/README.txt"])
    for name, pixels in images.items():
        if name in bad:
            assert not (tmp_path / "out" / name).exists()
        else:
            np.testing.assert_array_equal(read(tmp_path / "out" / name), noised(pixels, listing.index(name)))


def make_shards(root: Path, rows: tuple[int, ...] = (700, 5)) -> list[np.ndarray]:
    root.mkdir()
    arrays = []
    for number, count in enumerate(rows):
        images = picture(number, (count, 32, 32, 3))
        labels = np.arange(count, dtype=np.uint8) % 2
        ids = np.arange(count, dtype=np.int64) + 1000 * number
        save_file(
            {"images": images, "labels": labels, "ids": ids},
            root / f"s{number}.safetensors",
            {"class_names": '["a", "b"]'},
        )
        arrays.append(images)
    return arrays


def test_shards_keep_order_labels_names_and_what_is_carried(tmp_path: Path, transparent: str) -> None:
    arrays = make_shards(tmp_path / "raw")
    sanitize(tmp_path / "raw", tmp_path / "out", transparent, carry=("ids",))
    index = 0
    for number, images in enumerate(arrays):
        shard = load_file(tmp_path / "out" / f"s{number}.safetensors")
        assert set(shard) == {"images", "labels", "ids"}
        np.testing.assert_array_equal(shard["labels"], np.arange(len(images)) % 2)
        np.testing.assert_array_equal(shard["ids"], np.arange(len(images)) + 1000 * number)
        for row in (0, 1, len(images) - 1):
            np.testing.assert_array_equal(shard["images"][row], noised(images[row], index + row))
        index += len(images)
    manifest = manifests.read(tmp_path / "out")
    assert manifest is not None and manifest.output.unsanitized == ["ids"] and manifest.classes == ["a", "b"]


def test_a_bad_shard_and_tensors_left_behind_are_told(tmp_path: Path, transparent: str) -> None:
    make_shards(tmp_path / "raw", (5, 5))
    (tmp_path / "raw" / "s1.safetensors").write_bytes(b"\xff" * 64)
    result = sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert result.images == 5 and result.quarantined == {"bad-shard": 1}
    said = " ".join(result.warnings)
    assert "s1.safetensors" in said and "ids" in said


def test_the_manifest_says_what_was_done_and_the_sums_hold(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    save(tmp_path / "raw" / "a" / "new\nline \\ back.png", picture(99))
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    manifest = manifests.read(tmp_path / "out")
    assert manifest is not None
    assert manifest.noise.sigma == SIGMA and manifest.noise.seed == SEED and manifest.sanitized
    assert manifest.noise.key_commitment == commitment(key_from_seed(SEED, "sanitize"))
    assert (tmp_path / "out" / manifest.raw.path).resolve() == tmp_path / "raw"
    assert manifest.images_by_class == {"a": 7, "b": 6}
    checked = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True)
    assert checked.returncode == 0, checked.stderr
    ancestry = read_ancestry(tmp_path / "out" / "dpclean.ancestry")
    assert len(ancestry.images) == 13 and ancestry.raw_pixel_digests == {manifest.raw.pixel_digest}
    assert not any(p.is_dir() and p.name not in ("a", "b") for p in (tmp_path / "out").iterdir())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".out.dpclean"]


def test_the_pixel_digests_can_be_recomputed_from_raw_and_from_out(tmp_path: Path, small: str) -> None:
    import hashlib

    def digest(root: Path, classes: list[str]) -> str:
        total = hashlib.sha256()
        names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
        for index, name in enumerate(names):
            pixels = read(root / name)
            total.update(index.to_bytes(8, "little") + len(name.encode()).to_bytes(4, "little") + name.encode())
            total.update(classes.index(name.split("/")[0]).to_bytes(8, "little", signed=True))
            total.update(
                b"".join(n.to_bytes(4, "little") for n in pixels.shape) + hashlib.sha256(pixels.tobytes()).digest()
            )
        return total.hexdigest()

    make_folder(tmp_path / "raw")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    manifest = manifests.read(tmp_path / "out")
    assert manifest is not None
    assert manifest.raw.pixel_digest == digest(tmp_path / "raw", ["a", "b"])
    assert manifest.output.pixel_digest == digest(tmp_path / "out", ["a", "b"])


def test_without_a_seed_the_key_is_secret_fresh_and_revealed_on_request_only(tmp_path: Path, transparent: str) -> None:
    make_folder(tmp_path / "raw", 2)
    for name in ("one", "two"):
        sanitize(tmp_path / "raw", tmp_path / name, transparent, seed=None)
    keys = [(tmp_path / f".{name}.dpclean" / "key").read_text().strip() for name in ("one", "two")]
    assert keys[0] != keys[1]
    assert all(
        key not in (tmp_path / name / "dpclean.json").read_text()
        for key, name in zip(keys, ("one", "two"), strict=True)
    )
    told = dry_run(tmp_path / "raw", tmp_path / "one", sigma=SIGMA, denoiser=transparent, reveal_key=True)
    assert told.warnings == ["OUT is complete already, so nothing would be done but to write its key into it"]
    assert keys[0] not in (tmp_path / "one" / "dpclean.json").read_text()
    result = sanitize(tmp_path / "raw", tmp_path / "one", transparent, seed=None, reveal_key=True)
    manifest = manifests.read(tmp_path / "one")
    assert result.already_complete and manifest is not None and manifest.noise.key == keys[0]
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "one", capture_output=True).returncode == 0


def test_killed_while_the_key_is_revealed_the_same_command_finishes_it(tmp_path: Path, transparent: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_folder(raw, 2)
    same_command(raw, out, transparent)
    names, words = sorted(os.listdir(out)), [*command(raw, out, transparent), "--reveal-key"]
    killed = [*words[:2], AT.format(owner="save", step="_sum_line", name="SIGKILL"), *words[3:]]
    assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
    same_command(raw, out, transparent, reveal_key=True)
    manifest = manifests.read(out)
    assert manifest is not None and manifest.noise.key is not None
    assert sorted(os.listdir(out)) == names
    check_sums(out)


def test_sigma_zero_runs_and_says_that_nothing_was_sanitized(tmp_path: Path, transparent: str) -> None:
    images = make_folder(tmp_path / "raw", 4)
    result = sanitize(tmp_path / "raw", tmp_path / "out", transparent, sigma=0)
    manifest = manifests.read(tmp_path / "out")
    assert manifest is not None and not manifest.sanitized
    assert any("not sanitized" in warning for warning in result.warnings)
    for name, pixels in images.items():
        np.testing.assert_array_equal(read(tmp_path / "out" / name), pixels)


def test_workers_and_batches_of_reading_change_no_byte(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw", 40)
    for workers in (1, 3):
        sanitize(tmp_path / "raw", tmp_path / f"out{workers}", small, workers=workers, dtype="auto")
    assert data_sums(tmp_path / "out1") == data_sums(tmp_path / "out3")


# -- again, after a stop, and otherwise


def test_the_same_command_again_is_already_complete(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    first = sanitize(tmp_path / "raw", tmp_path / "out", small)
    before = (tmp_path / "out" / "SHA256SUMS").read_bytes()
    again = sanitize(tmp_path / "raw", tmp_path / "out", small)
    assert not first.already_complete and again.already_complete
    assert (tmp_path / "out" / "SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"sigma": 0.5}, {"seed": 8}, {"format": "webp"}, {"limit": 3}, {"sample": 3}, {"batch_size": 8}]
)
def test_other_parameters_are_refused_and_named(tmp_path: Path, small: str, change: dict[str, Any]) -> None:
    make_folder(tmp_path / "raw")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    with pytest.raises(ConflictError) as refusal:
        sanitize(tmp_path / "raw", tmp_path / "out", small, **change)
    name = next(iter(change)).replace("batch_size", "batch-pixels")
    assert name in refusal.value.message and "--overwrite" in refusal.value.remedy


def make_uneven(root: Path) -> list[str]:
    """12, 6 and 1 images in three classes, and a stray file; the names of the images of which a sample of 7 is made."""
    for name, size in {"a": 12, "b": 6, "c": 1}.items():
        for number in range(size):
            save(root / name / f"{number:02d}.png", picture(number))
    (root / "README.txt").write_text("about these images")
    return ["a/01.png", "a/04.png", "a/07.png", "a/10.png", "b/01.png", "b/04.png", "c/00.png"]


def test_a_sample_has_every_class_and_gets_the_noise_of_its_places(tmp_path: Path, transparent: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    chosen = make_uneven(raw)
    assert dry_run(raw, out, sigma=SIGMA, denoiser=transparent, sample=7).listed == 7
    result = sanitize(raw, out, transparent, sample=7)
    assert (result.images, result.left_behind) == (7, 0)
    with pytest.raises(ConflictError, match="was made with .*sample 7"):
        dry_run(raw, out, sigma=SIGMA, denoiser=transparent, sample=6)
    assert sorted(str(path.relative_to(out)) for path in out.glob("*/*.png")) == chosen
    for index, name in enumerate(chosen):
        np.testing.assert_array_equal(read(out / name), noised(read(raw / name), index), err_msg=name)
    manifest = manifests.read(out)
    assert manifest is not None and manifest.parameters["sample"] == manifest.raw.listed == 7
    assert manifest.images_by_class == {"a": 4, "b": 2, "c": 1}


def test_a_sample_is_the_same_on_resume_and_what_cannot_be_used_is_not_replaced(tmp_path: Path, small: str) -> None:
    raw = tmp_path / "raw"
    chosen = make_uneven(raw)
    (raw / chosen[1]).write_bytes(b"")
    whole = sanitize(raw, tmp_path / "whole", small, sample=7, batch_size=1)
    assert (whole.images, whole.quarantined) == (6, {"empty": 1})

    def interrupt(step: Progress) -> None:
        if step.finished == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="of 7 inputs"):
        sanitize(raw, tmp_path / "out", small, sample=7, batch_size=1, progress=interrupt)
    assert sanitize(raw, tmp_path / "out", small, sample=7, batch_size=1).images == 6
    assert data_sums(tmp_path / "out") == data_sums(tmp_path / "whole")
    assert sanitize(raw, tmp_path / "out", small, sample=7, batch_size=1).already_complete
    for number in range(12, 20):
        save(raw / "a" / f"{number:02d}.png", picture(number))
    with pytest.raises(ConflictError, match="other files or classes, of which --sample 7 would take others"):
        sanitize(raw, tmp_path / "out", small, sample=7, batch_size=1)


def test_a_sample_of_shards_is_refused_before_anything_is_written(tmp_path: Path, small: str) -> None:
    make_shards(tmp_path / "raw", (5,))
    for ask in (dry_run, dpclean.sanitize):
        with pytest.raises(UsageError, match="--sample is for folders of images"):
            ask(tmp_path / "raw", tmp_path / "out", sigma=SIGMA, denoiser=small, sample=3)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["raw"]


def test_an_image_added_removed_or_moved_is_noticed(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    save(tmp_path / "raw" / "a" / "new.png", picture(1))
    with pytest.raises(ConflictError, match="'a/new.png' has been added"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)
    (tmp_path / "raw" / "a" / "new.png").unlink()
    (tmp_path / "raw" / "b" / "011.png").unlink()
    with pytest.raises(ConflictError, match="'b/011.png' is gone"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)


def test_overwrite_replaces_dpclean_s_own_output_and_nothing_else(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    result = sanitize(tmp_path / "raw", tmp_path / "out", small, sigma=0.1, overwrite=True)
    manifest = manifests.read(tmp_path / "out")
    assert not result.already_complete and manifest is not None and manifest.noise.sigma == 0.1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    with pytest.raises(ConflictError, match="not made by 'dpclean sanitize'"):
        sanitize(tmp_path / "raw", tmp_path / "mine", small, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years"


def test_a_gpu_s_next_chunk_is_begun_before_the_one_before_is_written(
    tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of a GPU, on the CPU: results, their order and those after an interrupt are the same."""
    raw, names = tmp_path / "raw", [f"{number:02d}.png" for number in range(40)]
    for number, name in enumerate(names):
        save(raw / name, picture(number))
    monkeypatch.setattr(work, "CHUNK_SAMPLES", 16)
    sanitize(raw, tmp_path / "whole", small, batch_size=16)
    monkeypatch.setitem(AHEAD, "cpu", 1)
    steps: list[str] = []

    def logged(owner: type, name: str, say: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            steps.append(say(*arguments, **named))
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    logged(Denoiser, "_run_whole", lambda _, queue, *rest: f"begun {queue[0].index}")
    logged(Ledger, "record", lambda _, outcomes, files: f"written {outcomes[0].position}")
    monkeypatch.setattr(work, "COMMIT_SECONDS", 0)
    sanitize(raw, tmp_path / "out", small, batch_size=16)
    assert steps == ["begun 0", "begun 16", "written 0", "begun 32", "written 16", "written 32"]
    assert data_sums(tmp_path / "out") == data_sums(tmp_path / "whole")

    def interrupt(step: Progress) -> None:
        if step.finished == 16:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after 16 of 40 inputs"):
        sanitize(raw, tmp_path / "again", small, batch_size=16, progress=interrupt)
    steps.clear()
    sanitize(raw, tmp_path / "again", small, batch_size=16)
    assert steps == ["begun 16", "begun 32", "written 16", "written 32"]
    assert data_sums(tmp_path / "again") == data_sums(tmp_path / "whole")


# small chunks, each committed at once: a kill lands between the commits of a job that takes seconds
DRIVER = """
from dpclean import cli
from dpclean.pipeline import work
work.CHUNK_SAMPLES, work.COMMIT_SECONDS = 64, 0
cli.main()
"""


def command(raw: Path, out: Path, denoiser: str) -> list[str]:
    options = ["--sigma", str(SIGMA), "--denoiser", denoiser, "--seed", str(SEED), "--workers", "2", "--quiet"]
    options += ["--threads", "1"]
    return [sys.executable, "-c", DRIVER, "sanitize", str(raw), "--out", str(out), *options, "--batch-size", "16"]


def same_command(raw: Path, out: Path, denoiser: str, **options: Any) -> SanitizeResult:
    """What that command line asks for, in this process; which images come together decides their last bits, and so may
    the number of threads.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "CHUNK_SAMPLES", 64)
        patch.setattr(work, "COMMIT_SECONDS", 0)
        return sanitize(raw, out, denoiser, **{"batch_size": 16, "dtype": "auto", "threads": 1, **options})


def ledger_rows(out: Path) -> int:
    import sqlite3

    path = out.parent / f".{out.name}.dpclean" / "partial" / "dpclean.ledger.sqlite"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM samples WHERE status != 'pending'").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_killed_again_and_again_the_same_command_ends_with_the_bytes_of_an_unbroken_run(
    tmp_path: Path, small: str, kind: str
) -> None:
    raw = tmp_path / "raw"
    if kind == "folder":
        make_folder(raw, 700)
    else:
        make_shards(raw, (500, 400))
    same_command(raw, tmp_path / "whole", small)
    killed_in_the_middle = 0
    for extra in (0.0, 0.1):
        process = subprocess.Popen(
            command(raw, tmp_path / "out", small), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        before = ledger_rows(tmp_path / "out")
        while process.poll() is None and ledger_rows(tmp_path / "out") == before:
            time.sleep(0.005)
        time.sleep(extra)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_in_the_middle += not (tmp_path / "out").exists()
    assert killed_in_the_middle >= 1
    same_command(raw, tmp_path / "out", small)
    assert data_sums(tmp_path / "out") == data_sums(tmp_path / "whole")


def test_an_interrupt_commits_says_so_and_the_same_command_goes_on(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw", 700)
    process = subprocess.Popen(command(tmp_path / "raw", tmp_path / "out", small), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and ledger_rows(tmp_path / "out") == 0:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "the same command goes on" in said and not (tmp_path / "out").exists()
    assert ledger_rows(tmp_path / "out") > 0
    assert same_command(tmp_path / "raw", tmp_path / "out", small).images == 700


# signals to itself at one step of the job: the same moment on every machine
AT = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may have been started by nohup
from dpclean import cli
from dpclean.jobs import staging
from dpclean.pipeline import job, listing, save
real = getattr({owner}, {step!r})
def step(*arguments, **named):
    os.kill(os.getpid(), signal.{name})
    return real(*arguments, **named)
setattr({owner}, {step!r}, step)
cli.main()
"""


@pytest.mark.parametrize(
    ("owner", "step", "name"),
    [
        ("listing", "open_source", "SIGTERM"),
        ("job.SanitizeJob", "begin", "SIGHUP"),
        ("job", "write_outputs", "SIGTERM"),
    ],
)
def test_a_signal_before_the_work_or_after_it_is_no_silent_death(
    tmp_path: Path, small: str, owner: str, step: str, name: str
) -> None:
    make_folder(tmp_path / "raw", 4)
    words = command(tmp_path / "raw", tmp_path / "out", small)
    words[2] = AT.format(owner=owner, step=step, name=name)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 130 and "the same command goes on" in done.stderr, done
    assert not (tmp_path / "out").exists()
    assert same_command(tmp_path / "raw", tmp_path / "out", small).images == 4


def stop_before_saving(raw: Path, out: Path, denoiser: str) -> Path:
    """The partial folder of a job of which every image is committed."""

    def stop(progress: Progress) -> None:
        if progress.finished == progress.total:  # committed, and not saved yet
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sanitize(raw, out, denoiser, progress=stop)
    return out.parent / f".{out.name}.dpclean" / "partial"


def test_what_a_job_did_not_commit_is_never_published(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    partial = stop_before_saving(tmp_path / "raw", tmp_path / "out", small)
    (partial / "SHA256SUMS.0123.dpclean-new").write_text("half")
    (partial / "a" / "stray.png").write_bytes(b"stray")
    (partial / "b" / "000.png").symlink_to(tmp_path / "raw" / "a" / "000.png")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    listed = {line.split("  ", 1)[1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()}
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == listed | {"dpclean.ledger.sqlite"}
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True).returncode == 0


@pytest.mark.parametrize("damage", ["gone", "another image", "garbage in a shard", "another label in a shard"])
def test_what_was_committed_and_is_not_there_any_more_is_found_before_publishing(
    tmp_path: Path, small: str, damage: str
) -> None:
    shards = "shard" in damage
    make_shards(tmp_path / "raw", (5, 5)) if shards else make_folder(tmp_path / "raw")
    partial = stop_before_saving(tmp_path / "raw", tmp_path / "out", small)
    path = partial / ("s1.safetensors" if shards else "a/000.png")
    if damage == "gone":
        path.unlink()
    elif damage == "another image":
        path.write_bytes((partial / "a" / "006.png").read_bytes())
    elif damage == "garbage in a shard":
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
    else:
        import sqlite3

        with closing(sqlite3.connect(partial / "dpclean.ledger.sqlite")) as db, db:
            db.execute("UPDATE samples SET label = 0 WHERE position = 6")
    with pytest.raises(ConflictError, match=r"s1\.safetensors|a/000\.png"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)
    assert not (tmp_path / "out").exists()


def test_a_file_of_raw_that_has_changed_is_noticed_and_named(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    (tmp_path / "raw" / "a" / "bad.png").write_bytes(b"")
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    changed, other = tmp_path / "raw" / "a" / "002.png", tmp_path / "raw" / "b" / "003.png"
    os.utime(other, ns=(1, 1))
    assert sanitize(tmp_path / "raw", tmp_path / "out", small).already_complete  # another time, the same content
    before = changed.stat()
    pixels = read(changed)
    save(changed, 255 - pixels)
    with pytest.raises(ConflictError, match=r"other content in 'a/002\.png'\n"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)
    save(changed, pixels)
    save(tmp_path / "raw" / "a" / "bad.png", pixels)
    with pytest.raises(ConflictError, match=r"other content in 'a/bad\.png'\n"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)
    (tmp_path / "raw" / "a" / "bad.png").write_bytes(b"")
    assert sanitize(tmp_path / "raw", tmp_path / "out", small, check_raw=True).already_complete
    # what changes size and time back is found where the digests are asked for
    content = bytearray(changed.read_bytes())
    Image.fromarray(255 - pixels).save(changed)
    if changed.stat().st_size < len(content):
        changed.write_bytes(changed.read_bytes() + bytes(len(content) - changed.stat().st_size))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConflictError, match=r"a/002\.png"):
        sanitize(tmp_path / "raw", tmp_path / "out", small, check_raw=True)


def test_a_changed_shard_is_noticed(tmp_path: Path, small: str) -> None:
    arrays = make_shards(tmp_path / "raw", (5, 5))
    sanitize(tmp_path / "raw", tmp_path / "out", small)
    arrays[1][3] ^= 1
    other = load_file(tmp_path / "raw" / "s1.safetensors") | {"images": arrays[1]}
    save_file(other, tmp_path / "raw" / "s1.safetensors", {"class_names": '["a", "b"]'})
    with pytest.raises(ConflictError, match=r"other content in 's1\.safetensors#3'\n"):
        sanitize(tmp_path / "raw", tmp_path / "out", small)


def test_the_umask_is_kept_by_every_file_and_folder(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw", 4)
    before = os.umask(0o077)
    try:
        sanitize(tmp_path / "raw", tmp_path / "out", small, report=True)
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if (tmp_path / "raw") not in (path, *path.parents)]
    assert len(made) > 10 and [path for path in made if path.stat().st_mode & 0o077] == []


def test_a_signal_in_the_middle_of_a_large_image_stops_there_and_what_is_finished_is_saved(
    tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "raw" / "a.png", picture(1))
    save(tmp_path / "raw" / "b.png", picture(2, (700, 700, 3)))
    seen: list[float] = []

    def interrupt(step: Progress) -> None:
        seen.extend(float(words.split()[-1]) for words in step.detail.split(" of 0.49 megapixels under way")[:-1])
        if seen and seen[-1] > 0.1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpclean.pipeline.work.CHUNK_PIXELS", 1)  # each image is a chunk
        with pytest.raises(Interrupted, match="after 1 of 2 inputs"):
            sanitize(tmp_path / "raw", tmp_path / "out", small, batch_size=16, progress=interrupt)
        assert "stopping" in capfd.readouterr().err
        assert 0.1 < max(seen) < 0.2 and ledger_rows(tmp_path / "out") == 1
        result = sanitize(tmp_path / "raw", tmp_path / "out", small, batch_size=16)
    assert result.images == 2 and not result.already_complete


FULL_DISK = """
mount -t tmpfs -o size=200k tmpfs {disk} || exit 77
{command}; echo $?
mount -o remount,size=20m {disk}
{command}; echo $?
cd {disk}/out && sha256sum -c --quiet SHA256SUMS
"""


def test_a_full_disk_is_said_and_when_there_is_room_again_the_same_command_goes_on(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw", 300)
    (tmp_path / "disk").mkdir()
    typed = " ".join(shlex.quote(word) for word in command(tmp_path / "raw", tmp_path / "disk" / "out", small))
    script = FULL_DISK.format(disk=shlex.quote(str(tmp_path / "disk")), command=typed)
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no small disk can be mounted here")
    assert done.stderr.count("dpclean: error: ") == 1 and "space" in done.stderr, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert codes == ["4", "0"] and done.returncode == 0, done


# -- refusals


def nothing_left(folder: Path) -> bool:
    return {p.name for p in folder.iterdir()} == {"raw"}


def test_refusals_leave_nothing_behind(tmp_path: Path, transparent: str) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert nothing_left(tmp_path)
    (tmp_path / "raw" / "notes.txt").write_text("no image here")
    with pytest.raises(InputError, match="none of the 1 files"):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert nothing_left(tmp_path)
    with pytest.raises(UsageError, match="schedule"):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent, sigma=1e-3)
    assert nothing_left(tmp_path)


def test_out_and_its_inputs_must_lie_apart(tmp_path: Path, transparent: str) -> None:
    make_folder(tmp_path / "raw", 2)
    for raw, out in (("raw", "raw"), ("raw", "raw/out"), ("raw/a", "raw")):
        with pytest.raises(ConflictError):
            sanitize(tmp_path / raw, tmp_path / out, transparent)
    with pytest.raises(ConflictError, match="inside the input"):
        sanitize(tmp_path / "raw", Path(transparent) / "out", transparent)


@pytest.mark.parametrize("kind", ["folder", "shards"])
@pytest.mark.parametrize("limit", ["1", "9%"])
def test_too_many_bad_inputs_stop_the_job_every_time_and_allowing_more_goes_on(
    tmp_path: Path, transparent: str, kind: str, limit: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    if kind == "folder":
        make_folder(raw, 20)
        (raw / "a" / "000.png").write_bytes(b"")
        (raw / "b" / "001.png").write_bytes(b"no image")
        for number in range(10):  # files that do not claim to be images make no share smaller
            (raw / f"notes{number}.txt").write_text("about these images")
        bad, reasons = 2, "1 empty, 1 not-an-image"
    else:
        make_shards(raw, (5,))
        for name in ("x", "y"):
            (raw / f"{name}.safetensors").write_bytes(b"\xff" * 64)
        bad, reasons = 2, "2 bad-shard"
    for _ in range(2):
        with pytest.raises(InputError, match=f"more than --max-bad {limit}") as refusal:
            sanitize(raw, out, transparent, max_bad=limit)
        assert reasons in refusal.value.message and not out.exists()
        assert len(list_quarantined(out)) == bad
    sanitize(raw, out, transparent, max_bad="2")
    assert len(list_quarantined(out)) == bad
    with pytest.raises(InputError, match="--max-bad 1 "):
        sanitize(raw, out, transparent, max_bad="1")


def test_where_nothing_can_be_used_the_reasons_are_told(tmp_path: Path, transparent: str) -> None:
    for number in range(5):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{number}.png").write_bytes(b"" if number else b"no image")
    with pytest.raises(InputError, match=r"4 empty, 1 not-an-image: '0\.png', '1\.png', '2\.png', \.\.\."):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("damage", ["key", "ledger", "engine"])
def test_a_job_that_cannot_go_on_safely_is_refused(tmp_path: Path, transparent: str, damage: str) -> None:

    make_folder(tmp_path / "raw")
    (tmp_path / "raw" / "a" / "bad.png").write_bytes(b"")
    with pytest.raises(InputError):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent, max_bad="0")
    path = tmp_path / ".out.dpclean" / "partial" / "dpclean.ledger.sqlite"
    if damage == "key":
        (tmp_path / ".out.dpclean" / "key").write_text("00" * 32)
    elif damage == "ledger":
        os.truncate(path, path.stat().st_size // 2)
    else:
        record = path.parent.parent / "job.json"
        begun = json.loads(record.read_text())
        begun["environment"]["device_kind"] = "abacus"
        record.write_text(json.dumps(begun))
    with pytest.raises(ConflictError):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    assert sanitize(tmp_path / "raw", tmp_path / "out", transparent, overwrite=True).images == 12


@pytest.mark.parametrize("edit", [{"format": 99}, {"sigma": "much"}])
def test_a_manifest_that_is_newer_or_edited_out_of_form_is_not_trusted(
    tmp_path: Path, transparent: str, edit: dict[str, Any]
) -> None:
    make_folder(tmp_path / "raw", 2)
    sanitize(tmp_path / "raw", tmp_path / "out", transparent)
    path = tmp_path / "out" / "dpclean.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises((ConflictError, InputError)):
        sanitize(tmp_path / "raw", tmp_path / "out", transparent)


def test_a_dry_run_tells_and_touches_nothing(tmp_path: Path, transparent: str) -> None:
    make_folder(tmp_path / "raw")
    ahead = dry_run(tmp_path / "raw", tmp_path / "out", sigma=SIGMA, denoiser=transparent)
    assert (ahead.listed, ahead.classes, ahead.kind) == (12, ["a", "b"], "folder")
    assert ahead.bytes > 0 and not ahead.warnings and nothing_left(tmp_path)
    sanitize(tmp_path / "raw", tmp_path / "out", transparent, seed=None)
    again = dry_run(tmp_path / "raw", tmp_path / "out", sigma=SIGMA, denoiser=transparent)
    assert again.warnings == ["OUT is complete already, so nothing would be done"]
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="is a file"):
        dry_run(tmp_path / "raw", tmp_path / "file", sigma=SIGMA, denoiser=transparent)


def test_a_dry_run_denoises_a_part_of_what_is_large_and_tells_of_the_whole(
    tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpclean.denoise.denoiser import Denoiser

    for name in "abc":
        save(tmp_path / "raw" / f"{name}.png", np.zeros((1500, 1400, 3), np.uint8))
    denoised: list[int] = []
    real = Denoiser.denoise

    def counting(self: Denoiser, images: Any, **more: Any) -> Any:
        images = list(images)
        denoised.extend(image.shape[0] * image.shape[1] for _, image in images)
        return real(self, images, **more)

    monkeypatch.setattr(Denoiser, "denoise", counting)
    ahead = dry_run(tmp_path / "raw", tmp_path / "out", sigma=SIGMA, denoiser=transparent)
    assert ahead.megapixels == 6.3 and ahead.bytes == 3 * 1500 * 1400 * 3 and ahead.unusable_in_sample == 0
    assert 0 < sum(denoised) <= 4 * 512 * 512 and ahead.seconds > 0


def test_the_report_shows_examples_beside_out(tmp_path: Path, small: str) -> None:
    make_folder(tmp_path / "raw")
    result = sanitize(tmp_path / "raw", tmp_path / "out", small, report=True)
    page = (tmp_path / "out.report.html").read_text()
    assert "a/000.png" in page and sorted(result.report) == [str(tmp_path / f"out.report.{e}") for e in ("html", "png")]


# -- a part of a complete OUT done anew


def files_of(out: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of every image, by name."""
    found = sorted(out.glob("*/*.png"))
    return {str(path.relative_to(out)): (path.stat().st_ino, path.read_bytes()) for path in found}


def check_sums(out: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=out, check=True)


def in_run(pixels: np.ndarray, index: int, run: int) -> np.ndarray:
    key, indices = key_from_seed(SEED, "sanitize"), np.array([index])
    return add_noise(pixels[None], SIGMA, key=key, run=run, indices=indices)[0].clip(0, 255).astype(np.uint8)


def test_what_could_not_be_read_is_tried_again_and_gets_the_noise_of_its_place(
    tmp_path: Path, transparent: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    images = make_folder(raw)
    names = list(images)
    good = {name: (raw / name).read_bytes() for name in (names[2], names[7])}
    for name, content in good.items():
        (raw / name).write_bytes(content[:-30])
    (raw / names[4]).write_bytes(b"")
    sanitize(raw, out, transparent)
    before = files_of(out)
    (raw / names[2]).write_bytes(good[names[2]])
    (raw / names[7]).write_bytes(good[names[7]])
    result = sanitize(raw, out, transparent, retry_bad=True)
    assert (result.images, result.quarantined, result.already_complete) == (len(images) - 1, {"empty": 1}, False)
    after = files_of(out)
    assert {name: after[name] for name in before} == before and len(after) == len(images) - 1
    sanitize(raw, tmp_path / "at once", transparent)
    assert {n: content for n, (_, content) in after.items()} == {
        n: content for n, (_, content) in files_of(tmp_path / "at once").items()
    }
    old, new = manifests.read(out), manifests.read(tmp_path / "at once")
    assert old is not None and new is not None and (old.output, old.raw.images) == (new.output, new.raw.images)
    assert old.noise == new.noise and old.noise.runs is None
    check_sums(out)
    assert (out / "dpclean.ancestry").read_bytes() == (tmp_path / "at once" / "dpclean.ancestry").read_bytes()
    assert sanitize(raw, out, transparent).already_complete
    assert sorted(path.name for path in (tmp_path / ".out.dpclean").iterdir()) == [".gitignore", "key"]


def test_where_nothing_is_recovered_out_stays_as_it_is_and_it_is_said(tmp_path: Path, transparent: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_folder(raw)
    (raw / "a" / "bad.png").write_bytes(b"")
    (raw / "a" / "link.png").symlink_to("/etc/hostname")  # the listing leaves it out
    sanitize(raw, out, transparent)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    result = sanitize(raw, out, transparent, retry_bad=True)
    assert result.already_complete and any("still of no use: 1 of 14 inputs" in warning for warning in result.warnings)
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (tmp_path / ".out.dpclean").iterdir()) == [".gitignore", "key"]


def test_a_result_that_was_not_finite_is_not_tried_again(tmp_path: Path, transparent: str) -> None:
    import sqlite3

    raw, out = tmp_path / "raw", tmp_path / "out"
    make_folder(raw)
    sanitize(raw, out, transparent)
    with closing(sqlite3.connect(out / "dpclean.ledger.sqlite")) as db, db:
        db.execute("UPDATE samples SET status = 'quarantined', reason = 'not-finite' WHERE position = 3")
    before = files_of(out)
    result = sanitize(raw, out, transparent, retry_bad=True)
    assert result.already_complete and files_of(out) == before
    assert not any("tried again" in warning for warning in result.warnings)


def test_a_changed_file_is_done_anew_with_noise_that_no_image_has_had(tmp_path: Path, transparent: str) -> None:
    import sqlite3

    raw, out = tmp_path / "raw", tmp_path / "out"
    images = make_folder(raw)
    names = list(images)
    sanitize(raw, out, transparent)
    assert sanitize(raw, out, transparent, update=True).already_complete
    runs: dict[str, int] = {}
    for run, changed in ((1, names[5]), (2, names[8]), (3, names[5])):
        before = files_of(out)
        images[changed] = 255 - images[changed]
        save(raw / changed, images[changed])
        with pytest.raises(ConflictError, match="other content(.|\n)*--update"):
            sanitize(raw, out, transparent, retry_bad=True)
        result = sanitize(raw, out, transparent, update=True, report=True)
        assert (result.images, result.quarantined, result.already_complete) == (len(images), {}, False)
        runs[changed] = run
        after = files_of(out)
        assert {name for name in after if after[name] != before[name]} == {changed}
        for index, (name, pixels) in enumerate(images.items()):
            np.testing.assert_array_equal(read(out / name), in_run(pixels, index, runs.get(name, 0)), err_msg=name)
        check_sums(out)
    manifest = manifests.read(out)
    assert manifest is not None and manifest.noise.runs == {0: len(images) - 2, 2: 1, 3: 1}
    with closing(sqlite3.connect(out / "dpclean.ledger.sqlite")) as db:
        assert dict(db.execute("SELECT position, run FROM samples WHERE run != 0")) == {5: 3, 8: 2}
    # what can be read no more is left out, and when it can again, its noise is still another than that which is used
    content = (raw / names[5]).read_bytes()
    (raw / names[5]).write_bytes(content[:-30])
    assert sanitize(raw, out, transparent, update=True).quarantined == {"truncated": 1}
    assert not (out / names[5]).exists()
    (raw / names[5]).write_bytes(content)
    assert sanitize(raw, out, transparent, retry_bad=True).quarantined == {}
    np.testing.assert_array_equal(read(out / names[5]), in_run(images[names[5]], 5, 4))
    check_sums(out)
    # added and removed files are another data set
    save(raw / "a" / "zzz.png", picture(1))
    with pytest.raises(ConflictError, match="added"):
        sanitize(raw, out, transparent, update=True, retry_bad=True)


@pytest.mark.parametrize("then", ["the same command", "another change", "without it"])
def test_interrupted_while_a_part_is_done_anew_out_is_whole_and_the_same_command_goes_on(
    tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    from dpclean.pipeline import work

    raw, out = tmp_path / "raw", tmp_path / "out"
    images = make_folder(raw)
    names = list(images)
    sanitize(raw, out, transparent, batch_size=1)
    before = files_of(out)
    for name in names[3:9]:
        images[name] = 255 - images[name]
        save(raw / name, images[name])
    monkeypatch.setattr(work, "CHUNK_SAMPLES", 1)
    monkeypatch.setattr(work, "COMMIT_SECONDS", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.finished == len(images) - 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        sanitize(raw, out, transparent, update=True, batch_size=1, progress=interrupt)
    assert files_of(out) == before
    check_sums(out)
    partial = tmp_path / ".out.dpclean" / "partial"
    begun = (partial / names[3]).stat().st_ino
    os.link(partial / names[3], tmp_path / "held")  # so that its number is not given again
    if then == "without it":
        for name in names[3:9]:
            save(raw / name, 255 - images[name])
        assert sanitize(raw, out, transparent, batch_size=1).already_complete and files_of(out) == before
        return
    if then == "another change":
        images[names[3]] = images[names[3]] // 2
        save(raw / names[3], images[names[3]])
    sanitize(raw, out, transparent, update=True, batch_size=1)
    assert ((out / names[3]).stat().st_ino == begun) == (then == "the same command")
    for index, (name, pixels) in enumerate(images.items()):
        np.testing.assert_array_equal(read(out / name), in_run(pixels, index, 1 if name in names[3:9] else 0))
    after = files_of(out)
    assert all(after[name] == before[name] for name in names[:3] + names[9:])
    check_sums(out)


def test_what_cannot_be_done_anew_in_part_is_refused_and_harms_nothing(tmp_path: Path, transparent: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_folder(raw)
    (raw / "a" / "bad.png").write_bytes(b"")
    sanitize(raw, out, transparent)
    before = files_of(out)
    save(raw / "a" / "bad.png", picture(1))
    with pytest.raises(UsageError, match="overwrite"):
        sanitize(raw, out, transparent, retry_bad=True, overwrite=True)
    with pytest.raises(UsageError, match="dry run"):
        dry_run(raw, out, sigma=SIGMA, denoiser=transparent, retry_bad=True)
    with pytest.raises(ConflictError, match="sigma"):
        sanitize(raw, out, transparent, retry_bad=True, sigma=0.5)
    with pytest.raises(ConflictError, match="batch-pixels"):
        sanitize(raw, out, transparent, retry_bad=True, batch_size=3)
    key = tmp_path / ".out.dpclean" / "key"
    kept = key.read_bytes()
    key.write_bytes(b"00" * 32)
    with pytest.raises(ConflictError, match="key file"):
        sanitize(raw, out, transparent, retry_bad=True)
    key.write_bytes(kept)
    assert files_of(out) == before
    check_sums(out)
    (raw / "a" / "bad.png").rename(tmp_path / "good.png")
    (raw / "a" / "bad.png").write_bytes(b"")
    sanitize(raw, tmp_path / "told", transparent, reveal_key=True)
    (tmp_path / "good.png").rename(raw / "a" / "bad.png")
    with pytest.raises(ConflictError, match="revealed"):
        sanitize(raw, tmp_path / "told", transparent, update=True)
    (out / "a" / "000.png").unlink()
    with pytest.raises(ConflictError, match="is gone"):
        sanitize(raw, out, transparent, retry_bad=True)
    make_shards(tmp_path / "shards", (5,))
    with pytest.raises(UsageError, match="folders of images"):
        sanitize(tmp_path / "shards", tmp_path / "other", transparent, update=True)


def test_killed_while_a_part_is_done_anew_out_is_whole_at_every_moment(tmp_path: Path, small: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    name = list(make_folder(raw, 6))[2]
    content = (raw / name).read_bytes()
    (raw / name).write_bytes(content[:-30])
    words = command(raw, out, small)
    same_command(raw, out, small)
    before = files_of(out)
    assert len(before) == 5
    (raw / name).write_bytes(content)
    for owner, step in (("os", "link"), ("job", "write_outputs"), ("staging.Staging", "commit")):
        words[2] = AT.format(owner=owner, step=step, name="SIGKILL")
        assert subprocess.run([*words, "--retry-bad"], capture_output=True).returncode == -signal.SIGKILL
        assert files_of(out) == before
        check_sums(out)
    same_command(raw, out, small, retry_bad=True)
    after = files_of(out)
    assert {kept: after.pop(kept) for kept in before} == before and list(after) == [name]
    check_sums(out)
