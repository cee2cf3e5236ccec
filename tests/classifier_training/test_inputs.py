"""What goes into a training: marked, counted, refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file

import dpclean
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.data.dataset import pixel_digest, pixel_hashes, read_images
from dpclean.errors import InputError, UsageError
from tests.classifier_training.commands import same_weights, told, train
from tests.networks import make_transparent
from tests.train.pictures import make_folder, tinted


def test_raw_data_without_a_manifest_are_marked(material: Path, tmp_path: Path) -> None:
    result = train(material / "raw", tmp_path / "model", holdout=0.2)
    assert not result.certifiable and "no dpclean.json" in result.warnings[0]
    assert (result.test_source, result.test_images, result.images) == ("holdout", 9, 36)


def test_data_that_changed_after_sanitizing_are_marked(material: Path, tmp_path: Path) -> None:
    clean = shutil.copytree(material / "clean", tmp_path / "clean")
    Image.fromarray(tinted(1, 3, seed=77)[0][0]).save(clean / "blue" / "000.png")
    reasons = told(Path(train(clean, tmp_path / "model").out)).not_certifiable
    assert len(reasons) == 1 and "changed since" in reasons[0]


def test_raw_data_are_not_looked_at_and_test_images_change_no_weight(
    material: Path, model: Path, tmp_path: Path
) -> None:
    """Everything but sanitized pixels may change: the raw data are gone, the test images are others."""
    shutil.copytree(material / "clean", tmp_path / "clean")
    train(tmp_path / "clean", tmp_path / "model", test=make_folder(tmp_path / "test", 9, seed=3))
    assert same_weights(model, tmp_path / "model")


def test_a_warm_start_on_raw_data_is_marked_and_carried_on_to_what_begins_from_it(
    material: Path, model: Path, tmp_path: Path
) -> None:
    warm, after = tmp_path / "warm", tmp_path / "after"
    stranger = make_folder(tmp_path / "stranger", 30, seed=50)
    result = train(material / "clean", warm, warm_start=stranger, warm_epochs=2)
    assert not result.certifiable and "--warm-start" in result.warnings[0]
    assert not same_weights(model, warm)
    ancestors = read_ancestry(warm / "dpclean.ancestry")
    raw = read_images(stranger, workers=1)
    hashes = pixel_hashes(raw)
    digest = pixel_digest(raw, hashes)
    assert ancestors.dump() == (Ancestry.of(hashes, digest) | read_ancestry(model / "dpclean.ancestry")).dump()
    assert digest in told(warm).data.raw_pixel_digests
    train(material / "clean", after, init=str(warm))
    assert not told(after).certifiable and "begun from" in told(after).not_certifiable[0]
    assert (after / "dpclean.ancestry").read_bytes() == ancestors.dump()
    assert told(after).recipe.name == "tiny@24"


def test_init_from_a_file_and_a_frozen_body(material: Path, model: Path, tmp_path: Path) -> None:
    weights = shutil.copy(model / "model.safetensors", tmp_path / "weights.safetensors")
    out = tmp_path / "model"
    result = train(material / "clean", out, init=str(weights), freeze=True)
    assert any("nothing tells what the weights 'weights.safetensors'" in warning for warning in result.warnings)
    ancestry, of_data = (read_ancestry(folder / "dpclean.ancestry") for folder in (out, model))
    assert ancestry.shared_images(of_data) == len(of_data.images) and not ancestry.complete
    first, second = load_file(weights), load_file(out / "model.safetensors")
    assert [name for name in first if not torch.equal(first[name], second[name])] == ["head.weight"]


REFUSED = [
    ({"init": "nowhere"}, InputError, "neither a model nor a file"),
    ({"init": "torchvision"}, UsageError, "no weights for the network"),
    ({"init": "torchvision:NONE", "recipe": "torchvision:resnet18"}, UsageError, "NONE"),
    ({"freeze": True}, UsageError, "--init"),
    ({"recipe": "huge"}, UsageError, "huge"),
    ({"holdout": 0.0}, UsageError, "between 0 and 1"),
    ({"seed": -1}, UsageError, "seed"),
    ({"warm_epochs": 0}, UsageError, "warm-epochs"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED, ids=[str(row[0]) for row in REFUSED])
def test_what_cannot_be_done_is_refused_and_nothing_is_left(
    material: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(material / "clean", tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_test_images_of_an_unknown_class_are_refused(material: Path, tmp_path: Path) -> None:
    test = make_folder(tmp_path / "test", 6)
    (test / "red").rename(test / "purple")
    with pytest.raises(InputError, match="'purple'"):
        train(material / "clean", tmp_path / "model", test=test)


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    raw = make_folder(tmp_path / "raw", 9)
    (raw / "yellow").mkdir()
    with pytest.raises(InputError, match="'yellow'"):
        train(raw, tmp_path / "model")


def test_a_class_that_lost_all_its_images_in_sanitizing_is_named(material: Path, tmp_path: Path) -> None:
    clean = shutil.copytree(material / "clean", tmp_path / "clean")
    shutil.rmtree(clean / "green")  # as sanitize leaves it: no image, no folder
    with pytest.raises(InputError, match="classes without a training image: 'green'") as refused:
        train(clean, tmp_path / "model")
    assert "in the raw data" in refused.value.remedy  # OUT has no such folder to remove


def test_what_is_not_certifiable_is_said_before_the_work(material: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def stop(step: object) -> None:
        raise KeyboardInterrupt

    for options, word in (({}, "no dpclean.json"), ({"warm_start": material / "raw"}, "--warm-start")):
        data = material / ("clean" if options else "raw")
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "model", say=said.append, progress=stop, overwrite=True, **options)
        assert len(said) == 1 and said[0].startswith("not certifiable: ") and word in said.pop()
    with pytest.raises(KeyboardInterrupt):
        train(material / "clean", tmp_path / "model", say=said.append, progress=stop, overwrite=True)
    assert said == []


def test_test_images_that_were_trained_on_are_counted(material: Path, tmp_path: Path) -> None:
    """The raw originals too: the ancestry tells, though their pixels were noised before training."""
    test = make_folder(tmp_path / "test", 6, seed=9)
    shutil.copy(material / "raw" / "red" / "002.png", test / "red" / "raw.png")
    shutil.copy(material / "clean" / "red" / "005.png", test / "red" / "clean.png")
    result = train(material / "clean", tmp_path / "model", test=test)
    assert [w for w in result.warnings if "among the training images" in w][0].endswith(": 2")


def test_shards_are_read_and_carried_tensors_are_not(tmp_path: Path) -> None:
    pixels, labels = tinted(30, 3)
    save_file({"images": pixels, "labels": labels.astype(np.uint8)}, tmp_path / "raw.safetensors")
    result = train(tmp_path / "raw.safetensors", tmp_path / "model", holdout=0.2)
    assert result.classes == ["0", "1", "2"] and result.images == 24


def test_an_alpha_plane_that_was_kept_does_not_reach_training(tmp_path: Path) -> None:
    raw, denoiser = make_folder(tmp_path / "raw", 12), make_transparent(tmp_path / "denoiser")
    weights = []
    for name, alpha in (("one", 255), ("other", 40)):
        for path in raw.rglob("*.png"):
            image = Image.open(path).convert("RGB")
            image.putalpha(alpha)
            image.save(path)
        options = {"denoiser": str(denoiser), "dtype": "fp32", "seed": 1, "workers": 1, "alpha_policy": "keep"}
        dpclean.sanitize(raw, tmp_path / f"clean-{name}", sigma=0.1, **options)
        weights.append(Path(train(tmp_path / f"clean-{name}", tmp_path / name).out))
    assert same_weights(*weights)
