"""What `denoiser eval` measures, against the definitions, and what it says about images that were fitted on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.cli import run
from dpclean.data.ancestry import Ancestry
from dpclean.data.dataset import read_images
from dpclean.data.digest import pixel_sha256
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.denoise.methods import find_method
from dpclean.denoiser_training import evaluate as evaluating
from dpclean.denoiser_training.evaluate import KEY, evaluate
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.noise import add_noise
from dpclean.train.model import read_model
from tests.classifier_training.commands import train
from tests.networks import make_denoiser, make_transparent
from tests.train.pictures import make_folder

pytest.importorskip("skimage")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, np.ndarray]:
    """Colour, grey, and two too small for the usual window of SSIM, one of them for any."""
    folder, rng, made = tmp_path / "images", np.random.default_rng(0), {}
    folder.mkdir()
    for name, shape in (("a.png", (40, 50, 3)), ("b.png", (33, 64)), ("c.png", (4, 9, 3)), ("e.png", (2, 9))):
        made[name] = rng.integers(60, 200, shape, np.uint8)
        Image.fromarray(made[name]).save(folder / name)
    (folder / "d.png").write_text("no image")
    return made


def test_the_figures_are_those_of_the_definitions(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    transparent = str(make_transparent(tmp_path / "d"))  # gives back the noised image, clipped
    found = evaluate(transparent, tmp_path / "images", sigmas=(0.05, 0.25), dtype="fp32", workers=1)
    assert (found.images, found.seen, [row.sigma for row in found.rows]) == (4, None, [0.05, 0.25])
    assert found.quarantined == {"not-an-image": 1} and "(1 not-an-image: 'd.png')" in found.warnings[0]
    for row in found.rows:
        psnr = []
        for index, clean in zip((0, 1, 2, 4), images.values(), strict=True):
            whole = clean.reshape(*clean.shape[:2], -1)
            noised = add_noise(whole[None], row.sigma, key=KEY, run=0, indices=np.array([index]))[0].clip(0, 255)
            psnr.append(10 * np.log10(255**2 / np.mean((noised.astype(float) - whole) ** 2)))
        assert row.psnr_noised == pytest.approx(np.mean(psnr)) == pytest.approx(row.psnr_denoised)
        assert row.ssim_noised == pytest.approx(row.ssim_denoised)
        assert 0 < row.ssim_noised < 1
    assert found.rows[0].ssim_noised > found.rows[1].ssim_noised


def test_each_method_is_measured_by_itself(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    folder = str(make_denoiser(tmp_path / "d"))
    for name in ("one-step", "ddim:2"):
        engine = Denoiser(find_denoiser(folder), 0.25, dtype="fp32", method=name)
        (row,) = evaluate(folder, tmp_path / "images", sigmas=(0.25,), dtype="fp32", method=name, workers=1).rows
        pairs = {
            i: pixels.reshape(*pixels.shape[:2], -1) for i, pixels in zip((0, 1, 2, 4), images.values(), strict=True)
        }
        done = engine.denoise(pairs.items(), key=KEY)
        errors = [np.mean((result.pixels - pairs[result.index].astype(float)) ** 2) for result in done]
        assert row.psnr_denoised == pytest.approx(np.mean([10 * np.log10(255**2 / error) for error in errors]))
    assert run(["denoiser", "eval", folder, str(tmp_path / "images"), "--method", "ddim:1"]) == UsageError.exit


def test_several_methods_are_measured_side_by_side(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    folder, names = str(make_denoiser(tmp_path / "d")), ("one-step", "ddim:2", "sde:3")
    options: dict[str, Any] = {"sigmas": (0.1, 0.25), "dtype": "fp32", "workers": 1}
    found = evaluate(folder, tmp_path / "images", method=[*names, "ddim:2"], **options).rows
    assert [(row.sigma, row.method) for row in found] == [(sigma, name) for sigma in (0.1, 0.25) for name in names]
    assert [row.evaluations for row in found] == [1, 2, 3] * 2
    for row in found:
        alone = evaluate(folder, tmp_path / "images", method=row.method, **{**options, "sigmas": (row.sigma,)}).rows[0]
        assert (alone.psnr_denoised, alone.ssim_noised) == (row.psnr_denoised, row.ssim_noised)
        assert row.megapixels_per_second > 0 and row.agreement is None and row.accuracy is None


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classifier")
    train(make_folder(root / "tinted"), root / "model")
    return root / "model"


def test_the_first_of_several_batches_does_not_count_for_the_cost() -> None:
    """In it libraries set themselves up."""
    several, alone = (evaluating._Measured(0.1, find_method("one-step")) for _ in range(2))
    for measured in (several, alone):
        measured.values.append([1.0] * 4)
        measured.on_batch(1e6, 10.0)
    several.on_batch(1e6, 2.0)
    several.on_batch(2e6, 4.0)
    row = several.row(None, [])
    assert row.megapixels_per_second == 0.5 and row.cost == 1
    assert alone.row(None, []).megapixels_per_second == 0.1 and alone.row(None, []).cost is None
    other = evaluating._Measured(0.1, find_method("ddim:2"))
    other.values.append([1.0] * 4)
    for seconds in (99.0, 6.0):
        other.on_batch(1e6, seconds)
    assert other.row(None, [row]).cost == pytest.approx(3)
    assert other.row(None, []).cost is None


def test_a_classifier_tells_what_it_sees_before_and_after(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise so strong that it is often mistaken; of one class it has never heard."""
    folder = make_folder(tmp_path / "images", 30, seed=3)
    shutil.copytree(folder / "red", folder / "violet")
    transparent, sigma = str(make_transparent(tmp_path / "d")), 2.0
    found = evaluate(transparent, folder, sigmas=(sigma,), dtype="fp32", workers=1, classifier=classifier)
    clean = read_images(folder, workers=1)
    noised = add_noise(np.stack(clean.pixels), sigma, key=KEY, run=0, indices=np.arange(40)).clip(0, 255)
    trainer = read_model(classifier).trainer(torch.device("cpu"))
    before, after = (
        trainer.predict(torch.from_numpy(x.astype(np.uint8))).numpy() for x in (np.stack(clean.pixels), noised)
    )
    (row,), seeing = found.rows, found.classifier
    assert row.agreement == (before == after).mean() and 0.2 < row.agreement < 0.9
    known = clean.labels < 3
    assert row.accuracy == (after == clean.labels)[known].mean() != row.agreement
    assert seeing is not None and (seeing.labelled, seeing.size, seeing.seen) == (30, 24, 0)
    assert seeing.accuracy == (before == clean.labels)[known].mean() > 0.9
    command = ["denoiser", "eval", transparent, str(folder), "--sigma=2", "--classifier", str(classifier), "--quiet"]
    assert run([*command, "--method", "one-step,ddim:2", "--method=sde:2", "--workers=1", "--dtype=fp32"]) == 0
    told = capsys.readouterr().out
    assert f"{100 * row.agreement:.1f} %" in told and "100.0 % of 30" in told
    assert [line.split()[1] for line in told.splitlines()[2:5]] == ["one-step", "ddim:2", "sde:2"]


def test_images_that_a_classifier_was_trained_on_are_counted(tmp_path: Path, classifier: Path) -> None:
    transparent = str(make_transparent(tmp_path / "d"))
    folder = classifier.parent / "tinted"
    found = evaluate(transparent, folder, sigmas=(0.1,), limit=7, workers=1, classifier=classifier).classifier
    assert found is not None and found.seen == 7


def test_the_command_tells_it_as_a_table_and_as_json(
    tmp_path: Path, images: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_transparent(tmp_path / "d")
    (folder / "dpclean.ancestry").write_bytes(Ancestry.of([pixel_sha256(images["a.png"])]).dump())
    arguments = ["denoiser", "eval", str(folder), str(tmp_path / "images"), "--sigmas", "0.1", "--quiet", "--workers=1"]
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert "fitted on 1 of them" in told
    assert run([*arguments, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["command"] == "denoiser eval" and fields["images"] == 4 and fields["seen"] == 1
    assert f"{fields['rows'][0]['psnr_noised']:.2f}" in told


def test_what_cannot_be_measured_is_refused(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    transparent = str(make_transparent(tmp_path / "d"))
    with pytest.raises(UsageError, match="positive"):
        evaluate(transparent, tmp_path / "images", sigmas=(0.0,))
    with pytest.raises(UsageError, match="outside the denoiser's schedule"):  # before the first is measured
        evaluate(transparent, tmp_path / "images", sigmas=(0.25, 1e-4), progress=lambda step: pytest.fail("measured"))
    for method in ("", "one-step,,ddim:2", "ddim:101", "ode:4", []):
        with pytest.raises(UsageError, match="method"):
            evaluate(transparent, tmp_path / "images", method=method)
    with pytest.raises(InputError, match="holds no model"):
        evaluate(transparent, tmp_path / "images", classifier=tmp_path / "images")
    with pytest.raises(SetupError, match="neither bundled"):
        evaluate("nothing", tmp_path / "images")
    for name in images:
        (tmp_path / "images" / name).unlink()
    with pytest.raises(InputError, match=r"none of the 1 files in .* \(1 not-an-image: 'd.png'\)"):
        evaluate(transparent, tmp_path / "images", workers=1)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.metrics", None)
    with pytest.raises(SetupError) as caught:
        evaluate("natural", tmp_path)
    assert "dpclean[eval]" in caught.value.remedy
