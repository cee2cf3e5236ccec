"""A denoiser fitted to images: it learns, goes on after a kill, and knows where it comes from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dpclean.cli import run as command
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import WEIGHTS, find_denoiser, load_schedule, load_through_diffusers
from dpclean.denoiser_training import fit as module
from dpclean.denoiser_training import initial_network
from dpclean.denoiser_training.fit import dry_run, fit
from dpclean.denoiser_training.training import USUAL_GAIN, Training, as_velocity
from dpclean.errors import ConflictError, Diverged, InputError, Interrupted, UsageError
from dpclean.progress import Progress
from tests.damage import refused_until_deleted
from tests.kills import killed_again_and_again
from tests.networks import PATCHES, SMALL, make_denoiser

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial_network, "NETWORK", {**SMALL, **PATCHES})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slopes of two colours, 64 x 64: easy to learn."""
    folder, rng = tmp_path_factory.mktemp("slopes"), np.random.default_rng(0)
    for number in range(24):
        ends, slope = rng.integers(0, 256, (2, 3)), np.add(*np.ogrid[0:1:64j, 0:1:64j])[:, :, None] / 2  # type: ignore[misc]
        Image.fromarray((ends[0] * slope + ends[1] * (1 - slope)).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def run(images: Path, out: Path, **options: Any) -> Path:
    fit([images], out, **{"steps": 12, "batch_size": 8, "workers": 1, "threads": 1, **options})
    return out


def stopped_fit(images: Path, out: Path) -> Path:
    """One that a signal ended after its fifth step."""

    def stop(step: Progress) -> None:
        if step.finished == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(images, out, progress=stop)
    return out


def error_of(denoiser: Path, images: Path, sigma: float) -> float:
    """Root mean squared error in grey levels."""
    clean = {i: np.array(Image.open(path)) for i, path in enumerate(sorted(images.iterdir()))}
    results = Denoiser(find_denoiser(str(denoiser)), sigma).denoise(clean.items(), key=KEY)
    return float(np.mean([np.square(r.pixels.astype(float) - clean[r.index]).mean() for r in results]) ** 0.5)


def test_it_learns_to_denoise(images: Path, tmp_path: Path) -> None:
    out = run(images, tmp_path / "d", steps=150, learning_rate=1e-2)
    before = run(images, tmp_path / "begun", steps=1)
    for sigma in (0.1, 0.25, 0.5):
        assert error_of(out, images, sigma) < 0.85 * error_of(before, images, sigma)


def test_a_fit_that_was_stopped_ends_with_the_same_weights(images: Path, tmp_path: Path) -> None:
    whole, stopped = run(images, tmp_path / "whole"), stopped_fit(images, tmp_path / "parts")
    assert not stopped.exists()
    steps: list[int] = []
    parts = run(images, stopped, progress=lambda step: steps.append(step.finished))
    assert steps == list(range(6, 13))
    for file in (WEIGHTS, "README.md", "samples.png"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]


def test_a_damaged_checkpoint_is_named_and_what_it_held_is_done_again(images: Path, tmp_path: Path) -> None:
    whole, stopped = run(images, tmp_path / "whole"), stopped_fit(images, tmp_path / "parts")
    checkpoint = tmp_path / ".parts.dpclean" / "work" / module.CHECKPOINT_NAME
    refused_until_deleted(checkpoint, lambda: run(images, stopped))
    assert (run(images, stopped) / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_killed_at_every_stage_the_same_command_makes_the_same_denoiser(images: Path, tmp_path: Path) -> None:
    killed_again_and_again(
        tmp_path,
        "from dpclean.denoiser_training import fit, initial_network\nfrom dpclean.jobs import job as jobs, staging\n"
        f"initial_network.NETWORK = { ({**SMALL, **PATCHES})!r}\nfit.CHECKPOINT_SECONDS = 0",
        f"fit.fit([{str(images)!r}], out, steps=6, batch_size=4, workers=1, threads=1, device='cpu')",
        ["jobs, write_record, 1", "fit, write_durably, 4", "fit, samples_png, 1", "staging, sync_folder, 1"],
    )


def edit_environment(path: Path, **changed: Any) -> None:
    job = json.loads(path.read_bytes())
    job["environment"].update(changed)
    path.write_text(json.dumps(job))


@pytest.mark.parametrize("text", [b"", b"{", b'{"parameters": 1, "environment": {}}'])
def test_a_damaged_job_is_refused(images: Path, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / ".e.dpclean" / "partial").mkdir(parents=True)
    for path in (tmp_path / "d" / module.RECORD_NAME, tmp_path / ".e.dpclean" / "job.json"):
        path.write_bytes(text)
    for name in ("d", "e"):
        with pytest.raises(InputError, match="damaged"):
            run(images, tmp_path / name)


def test_a_stopped_fit_refuses_other_parameters_and_other_images(images: Path, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(images, tmp_path / "d", progress=stop)
    with pytest.raises(ConflictError, match="begun with seed 0; this command asks for seed 1"):
        run(images, tmp_path / "d", seed=1)
    edit_environment(tmp_path / ".d.dpclean" / "job.json", torch="1.0")
    with pytest.raises(ConflictError, match=r"begun with torch 1\.0; here it would go on with torch"):
        run(images, tmp_path / "d")
    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer)
    (fewer / "00.png").unlink()
    with pytest.raises(ConflictError, match="with images [0-9a-f]{16}"):
        run(fewer, tmp_path / "d")
    run(fewer, tmp_path / "d", overwrite=True)
    with pytest.raises(ConflictError, match="with images [0-9a-f]{16}"):
        run(images, tmp_path / "d")


def test_what_is_complete_is_left_alone_and_what_is_not_ours_too(images: Path, tmp_path: Path) -> None:
    first = fit([images], tmp_path / "d", steps=2, batch_size=8, workers=1)
    made = (tmp_path / "d" / WEIGHTS).stat().st_mtime_ns
    again = fit([images], tmp_path / "d", steps=2, batch_size=8, workers=1)
    assert (first.already_complete, again.already_complete, again.steps) == (False, True, 2)
    assert (tmp_path / "d" / WEIGHTS).stat().st_mtime_ns == made
    edit_environment(tmp_path / "d" / module.RECORD_NAME, torch="1.0", threads=99, dpclean="0.0.1")  # of another time
    assert fit([images], tmp_path / "d", steps=2, batch_size=8, workers=1).already_complete
    with pytest.raises(ConflictError, match="was made with"):
        dry_run([images], tmp_path / "d", steps=3, batch_size=8, workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match="not made by"):
            run(images, tmp_path / "other", overwrite=overwrite)
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_minutes_become_steps_that_are_fixed_at_the_start(images: Path, tmp_path: Path) -> None:
    totals: set[int] = set()
    run(images, tmp_path / "d", steps=None, minutes=0.01, progress=lambda step: totals.add(step.total))
    assert len(totals) == 1 and totals.pop() >= 1


def test_a_look_ahead_says_what_it_takes_and_touches_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = dry_run([images], tmp_path / "d", steps=12, batch_size=8, workers=1)
    assert (told.images, told.steps, told.quarantined) == (24, 12, {}) and told.patches >= 24
    assert told.seconds > 0 and told.memory_bytes > 1 << 20 and told.bytes > 0
    by_time = dry_run([images], tmp_path / "d", minutes=1.0, batch_size=8, workers=1)
    assert by_time.steps > 0 and by_time.seconds <= 60
    words = ["denoiser", "fit", str(images), "--out", str(tmp_path / "d"), "--steps=2", "--batch-size=8", "--workers=1"]
    assert command([*words, "--dry-run"]) == 0
    assert "24 images" in (said := capsys.readouterr().out) and "2 steps" in said and "Nothing was written" in said
    assert list(tmp_path.iterdir()) == []
    assert command(words) == 0 and command([*words, "--dry-run"]) == 0
    assert "Note: OUT is complete already, so nothing would be done." in capsys.readouterr().out
    with pytest.raises(ConflictError, match="lies inside"):
        dry_run([images], images / "d")
    assert sorted(path.suffix for path in images.iterdir()) == [".png"] * 24


def test_the_folder_is_what_diffusers_and_a_reader_expect(images: Path, tmp_path: Path) -> None:
    out = run(images, tmp_path / "d")
    files = find_denoiser(str(out))
    network = load_through_diffusers(files)
    assert network.config["patch_size"] == 2 and network.config["in_channels"] == 12
    assert load_schedule(files)[1] == "v_prediction"
    assert {tensor.dtype for tensor in load_file(files.weights).values()} == {torch.float16}
    ancestry = read_ancestry(out / "dpclean.ancestry")
    assert len(ancestry.images) == 24 and ancestry.complete and len(ancestry.raw_pixel_digests) == 1
    card = (out / "README.md").read_text()
    assert "24 images" in card and "12 steps of 8 patches" in card and "random weights" in card
    with Image.open(out / "samples.png") as picture:
        assert np.ptp(np.asarray(picture)) > 0
    assert not (out / module.CHECKPOINT_NAME).exists()


def test_one_begun_from_another_keeps_its_network_and_adds_to_its_ancestry(images: Path, tmp_path: Path) -> None:
    init = make_denoiser(tmp_path / "init", prediction_type="epsilon")
    (init / "dpclean.ancestry").write_bytes(Ancestry.of([b"8 bytes."], "ab" * 32).dump())
    out = run(images, tmp_path / "d", init=str(init), steps=2)
    ancestry = read_ancestry(out / "dpclean.ancestry")
    assert b"8 bytes." in ancestry and len(ancestry.images) == 25 and "ab" * 32 in ancestry.raw_pixel_digests
    assert json.loads((out / "config.json").read_text())["in_channels"] == 3
    assert load_schedule(find_denoiser(str(out)))[1] == "epsilon"
    before, after = (load_file(folder / WEIGHTS) for folder in (init, out))
    moved = [(before[name] - after[name].float()).abs().max() for name in before]
    assert 0 < max(moved) < 0.01
    (init / "dpclean.ancestry").unlink()
    unknown = run(images, tmp_path / "e", init=str(init), steps=2)
    ancestry = read_ancestry(unknown / "dpclean.ancestry")
    assert len(ancestry.images) == 24 and not ancestry.complete  # what is known stays, marked
    assert f"incomplete, because {ancestry.because()}" in (unknown / "README.md").read_text()


def test_what_cannot_be_fitted_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        fit([], tmp_path / "d")
    for option in ({"minutes": 0}, {"seed": -1}, {"learning_rate": 0.0}):
        with pytest.raises(UsageError, match=f"{next(iter(option)).replace('_', '-')} must be"):
            run(images, tmp_path / "d", **option)
    grey = make_denoiser(tmp_path / "grey", in_channels=1, out_channels=1)
    with pytest.raises(UsageError, match="grey"):
        run(images, tmp_path / "d", init=str(grey))
    with pytest.raises(Diverged) as diverged:
        run(images, tmp_path / "d", learning_rate=1e38)
    assert diverged.value.exit == 3
    assert not (tmp_path / "d").exists()


def test_every_kind_of_prediction_means_the_same_velocity() -> None:
    clean, noise, abar = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.rand(4, 1, 1, 1) * 0.9 + 0.05
    noised = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    velocity = abar.sqrt() * noise - (1 - abar).sqrt() * clean
    for kind, prediction in (("epsilon", noise), ("sample", clean), ("v_prediction", velocity)):
        torch.testing.assert_close(as_velocity(prediction, noised, abar, kind), velocity, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.25, 1.0])
def test_a_usual_error_costs_the_same_at_every_noise_level(sigma: float) -> None:
    abar = torch.tensor(1 / (1 + 4 * sigma**2)).view(1, 1, 1, 1)
    error = 2 * (sigma**2 / (1 + USUAL_GAIN * sigma)) ** 0.5  # of the image on [-1, 1]
    v = torch.zeros(1, 3, 8, 8)
    loss = Training.loss(None, v + error / (1 - abar).sqrt(), v, abar)  # type: ignore[arg-type]
    assert abs(float(loss) - 1) < 1e-4
