"""What `denoiser eval` measures, against the definitions, and what it says about images that were fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpclean.cli import run
from dpclean.data.ancestry import Ancestry
from dpclean.data.digest import pixel_sha256
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.denoiser_training.evaluate import KEY, evaluate
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.noise import add_noise
from tests.networks import make_denoiser, make_transparent

pytest.importorskip("skimage")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, np.ndarray]:
    """Colour, grey, and one too small for the usual window of SSIM."""
    folder, rng, made = tmp_path / "images", np.random.default_rng(0), {}
    folder.mkdir()
    for name, shape in (("a.png", (40, 50, 3)), ("b.png", (33, 64)), ("c.png", (4, 9, 3))):
        made[name] = rng.integers(60, 200, shape, np.uint8)
        Image.fromarray(made[name]).save(folder / name)
    (folder / "d.png").write_text("no image")
    return made


def test_the_figures_are_those_of_the_definitions(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    transparent = str(make_transparent(tmp_path / "d"))  # gives back the noised image, clipped
    found = evaluate(transparent, tmp_path / "images", sigmas=(0.05, 0.25), dtype="fp32", workers=1)
    assert (found.images, found.seen, [row.sigma for row in found.rows]) == (3, None, [0.05, 0.25])
    for row in found.rows:
        psnr = []
        for index, clean in enumerate(images.values()):
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
        pairs = [(i, pixels.reshape(*pixels.shape[:2], -1)) for i, pixels in enumerate(images.values())]
        errors = [np.mean((r.pixels - pairs[r.index][1].astype(float)) ** 2) for r in engine.denoise(pairs, key=KEY)]
        assert row.psnr_denoised == pytest.approx(np.mean([10 * np.log10(255**2 / error) for error in errors]))
    assert run(["denoiser", "eval", folder, str(tmp_path / "images"), "--method", "ddim:1"]) == UsageError.exit


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
    assert fields["command"] == "denoiser eval" and fields["images"] == 3 and fields["seen"] == 1
    assert f"{fields['rows'][0]['psnr_noised']:.2f}" in told


def test_what_cannot_be_measured_is_refused(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    transparent = str(make_transparent(tmp_path / "d"))
    with pytest.raises(UsageError, match="positive"):
        evaluate(transparent, tmp_path / "images", sigmas=(0.0,))
    with pytest.raises(SetupError, match="neither bundled"):
        evaluate("nothing", tmp_path / "images")
    for name in images:
        (tmp_path / "images" / name).unlink()
    with pytest.raises(InputError, match="none of the files"):
        evaluate(transparent, tmp_path / "images", workers=1)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.metrics", None)
    with pytest.raises(SetupError) as caught:
        evaluate("natural", tmp_path)
    assert "dpclean[eval]" in caught.value.remedy
