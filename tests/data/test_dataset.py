"""Reading a labelled set, its splits, classes by name, and the fixed holdout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import dpclean
from dpclean.data import manifest as manifests
from dpclean.data.dataset import (
    divide,
    holdout,
    match_labels,
    of_other_shapes,
    pixel_digest,
    pixel_hashes,
    read_images,
    remarks,
    split,
)
from dpclean.errors import InputError, UsageError
from tests.data.pictures import noise, saved, to_image, write, write_png
from tests.networks import make_transparent


def make_classes(root: Path, per_class: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for label, name in enumerate(classes):
        for number in range(per_class):
            write_png(root / name / f"{number}.png", seed=100 * label + number)
    return root


def test_samples_come_in_listing_order_with_indices_that_skip_what_cannot_be_read(tmp_path: Path) -> None:
    root = make_classes(tmp_path / "raw")
    write(root / "cat" / "1.png", b"")
    write(root / "README.txt", b"notes")
    images = read_images(root, workers=1)
    assert images.names == ["cat/0.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert images.indices.tolist() == [1, 3, 4, 5, 6] and images.listed == 7
    assert images.labels.tolist() == [0, 0, 1, 1, 1] and images.classes == ("cat", "dog")
    assert images.quarantined == {"empty": 1}
    said = "images that cannot be used and are left out: 1 (1 empty: 'cat/1.png')"
    assert remarks(images, images, "split") == [said] and remarks(images, images, "test") == [said, f"test {said}"]
    np.testing.assert_array_equal(images.pixels[0], noise(seed=0))


def test_the_limit_counts_entries(tmp_path: Path) -> None:
    assert read_images(make_classes(tmp_path / "raw"), limit=4, workers=1).names[-1] == "dog/0.png"


def test_nothing_readable_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.png", b"")
    with pytest.raises(InputError, match=r"none of the 1 files in .* \(1 empty: 'a.png'\)"):
        read_images(tmp_path / "raw", workers=1)


def test_what_is_wrong_with_a_shard_is_said_and_of_many_names_the_first(tmp_path: Path) -> None:
    save_file({"images": np.stack([noise(8, 8)])}, tmp_path / "a.safetensors")
    for name in "bcde":
        save_file({"images": np.zeros((1, 8, 8, 3))}, tmp_path / f"{name}.safetensors")
    bad, *_, said = remarks(read_images(tmp_path, workers=1), None)
    assert bad.startswith("b.safetensors has a tensor 'images' of F64 [1, 8, 8, 3]; uint8")
    assert said.endswith("left out: 4 (4 bad-shard: 'b.safetensors', 'c.safetensors', 'd.safetensors', ...)")


def test_an_image_of_another_shape_than_most_is_found(tmp_path: Path) -> None:
    few, many = make_classes(tmp_path / "few", 1), make_classes(tmp_path / "many")
    for name, made in (("wide", noise(8, 9)), ("grey", noise(channels=1))):
        write(few / "cat" / f"{name}.png", saved(to_image(made), "PNG"))
    others = of_other_shapes(read_images(few, workers=1), read_images(many, workers=1))
    assert others == ["cat/grey.png", "cat/wide.png"]


def test_shards_without_class_names_get_a_class_for_each_integer(tmp_path: Path) -> None:
    pixels = np.stack([noise(8, 8, seed=i) for i in range(4)])
    save_file({"images": pixels, "labels": np.array([7, 2**40, 7, 9])}, tmp_path / "a.safetensors")
    images = read_images(tmp_path, workers=1)
    assert images.classes == ("7", "9", str(2**40)) and images.labels.tolist() == [0, 2, 0, 1]
    assert images.source_labels.tolist() == [7, 2**40, 7, 9] and images.kind == "shards"


def test_splits_are_told_by_top_folder_and_validation_is_left_aside(tmp_path: Path) -> None:
    for place, name in enumerate(("train", "val", "test")):
        write_png(tmp_path / name / "cat" / "0.png", seed=place)
    train, test = split(read_images(tmp_path, workers=1))
    assert test is not None and (train.names, test.names) == (["train/cat/0.png"], ["test/cat/0.png"])
    assert train.classes == test.classes == ("cat",)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_stands_for_test_where_there_is_none_and_it_is_said(tmp_path: Path, name: str) -> None:
    for place, split_name in enumerate(("train", name)):
        write_png(tmp_path / split_name / "cat" / "0.png", seed=place)
    write_png(tmp_path / "annotations" / "x" / "1.png", seed=9)
    whole = read_images(tmp_path, workers=1)
    train, test, source = divide(whole, test=None, share=None, default_share=0.1)
    assert test is not None and source == "split"
    assert (train.names, test.names) == (["train/cat/0.png"], [f"{name}/cat/0.png"])
    beside, standing_in = remarks(whole, test)
    assert "'annotations'" in beside and f"those of '{name}'" in standing_in
    write_png(tmp_path / "test" / "cat" / "0.png", seed=7)
    whole = read_images(tmp_path, workers=1)
    test = split(whole)[1]
    assert test is not None and test.names == ["test/cat/0.png"] and len(remarks(whole, test)) == 1


def test_a_data_set_of_its_own_for_testing_is_read_by_its_test_split(tmp_path: Path) -> None:
    for place, name in enumerate(("a/train/cat", "a/train/dog", "b/train/cat", "b/test/dog", "b/other/x")):
        write_png(tmp_path / name / "0.png", seed=place)
    whole = read_images(tmp_path / "a", workers=1)
    train, test, source = divide(whole, test=tmp_path / "b", share=0.5, workers=1)
    assert test is not None and source == "test" and train.classes == test.classes == ("cat", "dog")
    assert (test.names, test.labels.tolist()) == (["test/dog/0.png"], [1])


def test_without_splits_everything_is_train(tmp_path: Path) -> None:
    images = read_images(make_classes(tmp_path / "raw"), workers=1)
    train, test = split(images)
    assert test is None and train.names == images.names


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    images = read_images(make_classes(tmp_path / "raw", 1), workers=1)
    assert match_labels(images, ["dog", "bird", "cat"]).tolist() == [2, 0]
    with pytest.raises(InputError, match="'cat'"):
        match_labels(images, ["dog"])


def test_the_holdout_is_this_function_of_index_and_label(tmp_path: Path) -> None:
    images = read_images(make_classes(tmp_path / "raw", 10), workers=1)
    held = holdout(images, 0.2)
    for label in (0, 1):
        members = [(i, int(index)) for i, index in enumerate(images.indices) if images.labels[i] == label]

        def rank(index: int, label: int = label) -> bytes:
            address = index.to_bytes(8, "little") + label.to_bytes(8, "little", signed=True)
            return hashlib.sha256(b"dpclean-holdout-1" + address).digest()

        chosen = sorted(members, key=lambda member: rank(member[1]))[:2]
        assert {i for i, _ in members if held[i]} == {i for i, _ in chosen}


def test_the_holdout_does_not_look_at_pixels_or_at_other_classes(tmp_path: Path) -> None:
    images = read_images(make_classes(tmp_path / "raw", 10), workers=1)
    held = holdout(images, 0.3)
    images.pixels[:] = [np.zeros_like(pixels) for pixels in images.pixels]
    np.testing.assert_array_equal(holdout(images, 0.3), held)
    dogs = images.take(images.labels == 1)
    np.testing.assert_array_equal(holdout(dogs, 0.3), held[images.labels == 1])


def test_the_holdout_leaves_an_image_of_each_class_to_train_on(tmp_path: Path) -> None:
    images = read_images(make_classes(tmp_path / "raw", 2), workers=1)
    assert holdout(images, 0.99).tolist().count(True) == 2 == holdout(images, 0.01).tolist().count(True)
    alone = images.take(np.array([True, False, False, False]))
    assert holdout(alone, 0.5).tolist() == [False]
    with pytest.raises(UsageError):
        holdout(images, 1.0)


def test_digests_are_those_of_the_manifest(tmp_path: Path) -> None:
    raw, out = make_classes(tmp_path / "raw"), tmp_path / "clean"
    write(raw / "cat" / "1.png", saved(to_image(noise(channels=1)), "png"))
    write(raw / "ape" / "0.png", b"")  # a class without images: OUT numbers its classes otherwise
    denoiser = make_transparent(tmp_path / "denoiser")
    dpclean.sanitize(raw, out, sigma=0.25, denoiser=str(denoiser), dtype="fp32", workers=1)
    manifest = manifests.read(out)
    assert manifest is not None
    original, clean = read_images(raw, workers=1), read_images(out, workers=1)
    assert pixel_digest(original, pixel_hashes(original)) == manifest.raw.pixel_digest
    labels = match_labels(clean, manifest.classes).tolist()
    found = pixel_digest(clean, pixel_hashes(clean), indices=range(len(clean)), labels=labels)
    assert found == manifest.output.pixel_digest
