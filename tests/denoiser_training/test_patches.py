"""Trusted images as training patches: any size and channels, nothing forgotten in the ancestry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.data.ancestry import Ancestry
from dpclean.data.digest import pixel_sha256
from dpclean.denoiser_training import patches as module
from dpclean.denoiser_training.patches import LARGE, SMALL, Patches, is_grey, read_patches
from dpclean.errors import InputError

SIZES = {
    "a/one.png": (1, 1),
    "a/grey.png": (28, 28),
    "b/odd.png": (20, 50),
    "b/mid.png": (40, 63),
    "b/photo.png": (90, 150),
}


def write(folder: Path, sizes: dict[str, tuple[int, int]] = SIZES) -> dict[str, np.ndarray]:
    """PNG files of random pixels; the grey ones have one channel."""
    rng, images = np.random.default_rng(0), {}
    for name, (height, width) in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width) if "grey" in name else (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        images[name] = pixels.reshape(height, width, -1)
    return images


def made_of(patches: Patches) -> set[bytes]:
    return {int(image).to_bytes(8, "big") for image in patches.ancestry.images}


def test_images_of_any_size_become_patches_and_ancestry(tmp_path: Path) -> None:
    images = write(tmp_path / "d")
    (tmp_path / "d" / "e.png").touch()
    found = read_patches([tmp_path / "d"], seed=0, workers=1)
    assert found.images == len(images) and found.quarantined == {"empty": 1}
    assert found.remarks == [f"images that cannot be used and are left out: 1 (1 empty: '{tmp_path / 'd' / 'e.png'}')"]
    assert found.small.shape[1:] == (3, SMALL, SMALL) and found.large.shape[1:] == (3, LARGE, LARGE)
    assert made_of(found) == {pixel_sha256(pixels)[:8] for pixels in images.values()}
    photo = found.large[0].permute(1, 2, 0).numpy()  # its first patch is the largest square, made smaller
    assert len(found.large) == 2 * 90 * 150 // LARGE**2 - 1 and found.squares == 1
    assert abs(float(photo.mean()) - images["b/photo.png"].mean()) < 4
    assert is_grey(found.small).sum() == 1


def test_whole_images_made_small_do_not_come_from_the_many_crops_of_photos(tmp_path: Path) -> None:
    for name, size, level in (("a", 640, 255), *((f"b{i}", 64, 0) for i in range(3))):
        Image.new("RGB", (size, size), (level,) * 3).save(tmp_path / f"{name}.png")
    found = read_patches([tmp_path], seed=0, workers=1)
    assert len(found.large) == 103 and found.squares == 4
    white = torch.stack(
        [(found.draw(torch.Generator().manual_seed(s), 64, SMALL) > 0).float().mean() for s in range(60)]
    )
    assert 0.3 < white.mean() < 0.6  # a quarter of the whole ones, nearly all of the crops; 0.97 if all counted alike


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    images = write(tmp_path / "d", {"a.png": (32, 32)})
    found = read_patches([tmp_path / "d"], seed=0, workers=1)
    np.testing.assert_array_equal(found.small[0].permute(1, 2, 0).numpy(), images["a.png"])


def test_crops_depend_on_seed_and_place_alone(tmp_path: Path) -> None:
    write(tmp_path / "d")
    one, two, other = (
        read_patches([tmp_path / "d"], seed=seed, workers=n).large for seed, n in ((1, 1), (1, 2), (2, 1))
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_more_images_than_fit_are_thinned_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write(tmp_path / "d", {f"{i}.png": (64, 64) for i in range(9)})
    monkeypatch.setattr(module, "MOST_PATCHES", 3)
    found = read_patches([tmp_path / "d"], seed=0, workers=1)
    kept = [images[f"{i}.png"] for i in (0, 3, 6)]
    assert [tuple(p.flatten()[:9]) for p in found.large.permute(0, 2, 3, 1).numpy()] == [
        tuple(p.flatten()[:9]) for p in kept
    ]
    assert made_of(found) == {pixel_sha256(pixels)[:8] for pixels in kept}


def test_sanitized_images_bring_the_ancestry_of_what_they_were_made_from(tmp_path: Path) -> None:
    images = write(tmp_path / "d")
    (tmp_path / "d" / "dpclean.json").write_text(json.dumps({}))
    ancestors = Ancestry.of([b"8 bytes.", b"or more."], "ab" * 32) | Ancestry.unknown("nobody knows")
    (tmp_path / "d" / "dpclean.ancestry").write_bytes(ancestors.dump())
    for source in (tmp_path / "d", tmp_path / "d" / "b"):
        found = read_patches([source], seed=0, workers=1).ancestry
        assert b"8 bytes." in found and b"or more." in found and "ab" * 32 in found.raw_pixel_digests
        assert pixel_sha256(images["b/photo.png"]) in found and found.because() == "nobody knows"
    (tmp_path / "d" / "dpclean.ancestry").write_bytes(ancestors.dump()[:-8])
    with pytest.raises(InputError, match="damaged"):
        read_patches([tmp_path / "d"], seed=0, workers=1)
    (tmp_path / "d" / "dpclean.ancestry").unlink()
    with pytest.raises(InputError, match="missing"):
        read_patches([tmp_path / "d"], seed=0, workers=1)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"none of the 1 files in .* \(1 not-an-image: .*text.png'\)"):
        read_patches([tmp_path], seed=0, workers=1)


@pytest.mark.parametrize("edge", [SMALL, LARGE])
def test_batches_are_what_the_network_takes(tmp_path: Path, edge: int) -> None:
    write(tmp_path / "d")
    found = read_patches([tmp_path / "d"], seed=0, workers=1)
    batches = [found.draw(torch.Generator().manual_seed(seed), 64, edge) for seed in range(8)]
    for batch in batches:
        assert batch.shape == (64, 3, edge, edge) and batch.abs().max() <= 1
        grey_levels = (batch.double() + 1) * 127.5
        assert (grey_levels - grey_levels.round()).abs().max() < 1e-4  # pixels, not something between them
    assert torch.equal(found.draw(torch.Generator().manual_seed(3), 64, edge), batches[3])
    grey = torch.stack([is_grey(batch).float().mean() for batch in batches]).mean()
    assert 0.01 < grey < 0.5
