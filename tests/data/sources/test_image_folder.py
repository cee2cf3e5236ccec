"""RAW as a source: what is refused, splits, classes, and samples in their order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.decoding.worker import read
from dpclean.data.records import DataOptions, Entry
from dpclean.data.safe_open import Unusable, open_regular
from dpclean.data.sources import open_source
from dpclean.errors import InputError, Reason
from tests.data.pictures import noise, read_all, write, write_png
from tests.data.sources.test_listing import unprivileged

OPTIONS = DataOptions()


def entries(root: Path, options: DataOptions = OPTIONS) -> list[Entry]:
    return list(open_source(root, options).entries())


def labels(root: Path) -> dict[str, int]:
    return {entry.name: entry.label for entry in entries(root)}


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(raw: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_source(raw, OPTIONS)
    assert caught.value.remedy and "\n" not in caught.value.message
    return caught.value.message


def test_missing_empty_and_hidden_only(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing")
    assert "holds no files" in refusal(tmp_path)
    (tmp_path / ".hidden").touch()
    (tmp_path / "class").mkdir()
    assert "holds no files" in refusal(tmp_path)


def test_a_file_that_is_no_shard(tmp_path: Path) -> None:
    assert "neither a folder nor" in refusal(write_png(tmp_path / "x.png"))


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


def test_images_and_shards_together(tmp_path: Path) -> None:
    save_file({"images": noise()[None]}, tmp_path / "a.safetensors")
    write_png(tmp_path / "b" / "x.png")
    assert "both images" in refusal(tmp_path)


def test_shards_further_down(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    save_file({"images": noise()[None]}, tmp_path / "sub" / "a.safetensors")
    assert "'sub/a.safetensors'" in refusal(tmp_path)


def test_raw_may_be_a_link(tmp_path: Path) -> None:
    write_png(tmp_path / "raw" / "x.png")
    (tmp_path / "link").symlink_to("raw")
    assert labels(tmp_path / "link") == {"x.png": -1}


# --- splits and classes -----------------------------------------------------------------------------------------------


def test_the_first_folder_is_the_class(tmp_path: Path) -> None:
    for name in ("cat/deep/x.png", "dog/x.png", "top.png"):
        write_png(tmp_path / name)
    (tmp_path / "Empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert open_source(tmp_path, OPTIONS).classes == ("Empty", "cat", "dog")
    assert labels(tmp_path) == {"cat/deep/x.png": 1, "dog/x.png": 2, "top.png": -1}


def test_under_splits_the_second_folder_is_the_class(tmp_path: Path) -> None:
    for name in ("train/cat/x.png", "train/loose.png", "test/cat/x.png", "test/ant/deep/x.png", "readme.txt"):
        write_png(tmp_path / name)
    assert open_source(tmp_path, OPTIONS).classes == ("ant", "cat")
    assert labels(tmp_path) == {
        "readme.txt": -1,
        "test/ant/deep/x.png": 0,
        "test/cat/x.png": 1,
        "train/cat/x.png": 1,
        "train/loose.png": -1,
    }


def test_one_folder_that_is_no_split_makes_all_classes(tmp_path: Path) -> None:
    for name in ("train/cat/x.png", "extra/x.png"):
        write_png(tmp_path / name)
    assert open_source(tmp_path, OPTIONS).classes == ("extra", "train")
    assert labels(tmp_path) == {"extra/x.png": 0, "train/cat/x.png": 1}


def test_a_folder_that_appears_while_listing(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "x.png")
    source = open_source(tmp_path, OPTIONS)
    write_png(tmp_path / "b" / "x.png")
    with pytest.raises(InputError, match="got the folder 'b'"):
        list(source.entries())


# --- targets ----------------------------------------------------------------------------------------------------------


def test_targets_follow_the_format(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.TIF", "c", "d.webp", "e.txt"):
        write_png(tmp_path / name)
    targets = {
        format: [entry.target for entry in entries(tmp_path, DataOptions(output_format=format))]
        for format in ("png", "webp", "same")
    }
    assert targets["png"] == ["a.png", "b.png", "c.png", "d.png", "e.txt.png"]
    assert targets["webp"] == ["a.webp", "b.webp", "c.webp", "d.webp", "e.txt.webp"]
    assert targets["same"] == ["a.png", "b.tiff", "c.png", "d.webp", "e.txt.png"]


def test_a_target_too_long_for_its_folder(tmp_path: Path) -> None:
    write_png(tmp_path / ("x" * 251 + ".png"))
    assert entries(tmp_path)[0].reason is None
    assert entries(tmp_path, DataOptions(output_format="webp"))[0].reason is Reason.UNREADABLE


# --- samples ----------------------------------------------------------------------------------------------------------


def test_samples_come_in_order_with_their_reasons(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "1.png", seed=1)
    write_png(tmp_path / "a" / "2.jpg", seed=2)
    write(tmp_path / "a" / "3.png", b"hello")
    os.mkfifo(tmp_path / "a" / "4.png")
    write(tmp_path / "a" / "5.txt", b"hello")
    write(tmp_path / "a" / "6.png", b"")
    write(tmp_path / "a" / "7.svg", b"<svg/>")
    write(tmp_path / "a" / "8.heic", b"hello")
    write(tmp_path / "a" / "9", b"")
    source = open_source(tmp_path, OPTIONS)
    with WorkerPool(2, OPTIONS) as pool:
        samples = read_all(source, pool)
    assert [sample.entry for sample in samples] == list(source.entries())
    outcomes = [(sample.format, sample.reason, sample.left_behind) for sample in samples]
    assert outcomes == [
        ("png", None, False),
        ("png", None, False),
        ("", Reason.NOT_AN_IMAGE, False),
        ("", Reason.NOT_REGULAR, False),
        ("", None, True),
        ("", Reason.EMPTY, False),
        ("", Reason.FORMAT_NOT_ALLOWED, False),
        ("", Reason.FORMAT_NOT_ALLOWED, False),
        ("", None, True),
    ]
    for seed in (1, 2):
        np.testing.assert_array_equal(samples[seed - 1].pixels, noise(seed=seed))


def test_what_is_in_a_file_moves_nobody(tmp_path: Path) -> None:
    for index in range(5):
        write_png(tmp_path / f"{index}.png", seed=index)
    before = entries(tmp_path)
    write(tmp_path / "2.png", b"no image any more")
    assert entries(tmp_path) == before
    with WorkerPool(1, OPTIONS) as pool:
        samples = read_all(open_source(tmp_path, OPTIONS), pool)
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(samples[index].pixels, noise(seed=index))


# --- files that changed since they were listed ------------------------------------------------------------------------


def outcome(root: Path, name: str, options: DataOptions = OPTIONS) -> object:
    return read(os.fsencode(root), name, options)


def test_a_file_that_vanished(tmp_path: Path) -> None:
    assert outcome(tmp_path, "x.png") is Reason.VANISHED
    write_png(tmp_path / "a")
    assert outcome(tmp_path, "a/x.png") is Reason.VANISHED


def test_a_file_that_became_a_pipe_a_folder_or_a_link(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    write_png(tmp_path / "outside.png")
    (root / "link.png").symlink_to("../outside.png")
    assert outcome(root, "pipe.png") is Reason.NOT_REGULAR
    assert outcome(root, "folder.png") is Reason.NOT_REGULAR
    assert outcome(root, "link.png") is Reason.OUTSIDE_ROOT
    assert not isinstance(outcome(root, "link.png", DataOptions(follow_links=True)), Reason)


def test_a_link_inside_the_root_is_read(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png")
    (tmp_path / "link").symlink_to("x.png")
    assert not isinstance(outcome(tmp_path, "link"), Reason)


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(Unusable) as caught:
        open_regular(b"/dev", b"zero", False)
    assert caught.value.reason is Reason.NOT_REGULAR


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        write_png(Path(folder, "x.png")).chmod(0)
        with unprivileged():
            assert outcome(Path(folder), "x.png") is Reason.UNREADABLE


def test_a_linked_class_is_a_class_where_links_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_png(root / "cat" / "1.png")
    write_png(tmp_path / "pool" / "2.png", seed=2)
    (root / "dog").symlink_to("../pool")
    (root / "self").symlink_to(".")
    options = DataOptions(follow_links=True)
    source = open_source(root, options)
    assert source.classes == ("cat", "dog")
    with WorkerPool(1, options) as pool:
        samples = read_all(source, pool)
    assert [(s.entry.name, s.entry.label, s.reason) for s in samples] == [
        ("cat/1.png", 0, None),
        ("dog/2.png", 1, None),
        ("self", -1, Reason.NOT_REGULAR),
    ]
    np.testing.assert_array_equal(samples[1].pixels, noise(seed=2))
    assert open_source(root, OPTIONS).classes == ("cat",)


def test_no_part_of_a_name_may_be_a_link_that_leads_out_or_another_root(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_png(root / "a" / "1.png")
    write_png(tmp_path / "out" / "1.png")
    identity = (root.stat().st_dev, root.stat().st_ino)
    name = "a/1.png"
    os.close(open_regular(os.fsencode(root), name.encode(), False, identity))
    (root / "a").rename(root / "b")
    for target, expected in (("../out", Reason.OUTSIDE_ROOT), ("b", None), ("nothing", Reason.NOT_REGULAR)):
        (root / "a").symlink_to(target)
        outcome = read(os.fsencode(root), name, OPTIONS, identity)
        assert outcome is expected if expected else not isinstance(outcome, Reason)
        (root / "a").unlink()
    root.rename(tmp_path / "away")
    write_png(root / "a" / "1.png")
    assert read(os.fsencode(root), name, OPTIONS, identity) is Reason.VANISHED


def test_folders_beside_the_splits_change_nothing_and_are_named(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "test/dog/2.png", "annotations/x/3.png", "4.png"):
        write_png(tmp_path / name)
    source = open_source(tmp_path, OPTIONS)
    assert source.has_splits and source.classes == ("cat", "dog")
    assert labels(tmp_path) == {"4.png": -1, "annotations/x/3.png": -1, "test/dog/2.png": 1, "train/cat/1.png": 0}
    assert any("'annotations'" in remark for remark in source.remarks())


def test_a_class_of_trains_is_a_class(tmp_path: Path) -> None:
    for name in ("train/1.png", "plane/2.png", "car/3.png"):
        write_png(tmp_path / name)
    source = open_source(tmp_path, OPTIONS)
    assert not source.has_splits and source.classes == ("car", "plane", "train") and source.remarks() == []
