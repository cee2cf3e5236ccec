"""Runs on random shares: what a run takes, that the rest is nothing to it, and what then is certified."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpclean.certificate.verify import verify
from dpclean.certificate.votes import ABSTAIN
from dpclean.certificate.whole_images import WORD
from dpclean.certify.data import Data
from dpclean.certify.job import certify
from dpclean.certify.predict import predict
from dpclean.certify.training_runs import TrainingRuns
from dpclean.cli import run
from dpclean.errors import ConflictError, DifferenceError, InputError, UsageError
from dpclean.noise.membership import members
from dpclean.progress import Progress
from tests.certify.conftest import write_folder
from tests.certify.test_training_runs import KEY, make_runs
from tests.networks import make_denoiser


@pytest.fixture
def runs(raw: Path, tmp_path: Path, transparent: str) -> TrainingRuns:
    return make_runs(raw, tmp_path, transparent, subsample="0.3", keep_models=True)


def cast(runs: TrainingRuns, data: Data, number: int) -> tuple[list[int], bytes | None]:
    runs.prepare(data)
    return runs.cast(number).tolist(), runs.model()


def taken(data: Data, number: int) -> np.ndarray:
    return np.isin(data.indices, members(KEY, number, int(0.3 * WORD), 1000))


def test_what_a_run_did_not_take_does_not_change_one_bit_of_it(runs: TrainingRuns) -> None:
    data = runs.data
    inside = taken(data, 2)
    assert 2 <= inside.sum() < len(inside)
    as_it_is = cast(runs, data, 2)
    garbage = np.full_like(data.train[0], 255)
    spoilt = replace(
        data,
        train=[image if kept else garbage for image, kept in zip(data.train, inside, strict=True)],
        labels=np.where(inside, data.labels, 0),
    )
    assert cast(runs, spoilt, 2) == as_it_is
    absent = replace(
        data,
        train=[image for image, kept in zip(data.train, inside, strict=True) if kept],
        labels=data.labels[inside],
        indices=data.indices[inside],
    )
    assert cast(runs, absent, 2) == as_it_is
    other = replace(data, train=[garbage if kept else image for image, kept in zip(data.train, inside, strict=True)])
    assert cast(runs, other, 2) != as_it_is


def test_a_run_that_takes_nothing_votes_for_nobody_and_has_not_failed(runs: TrainingRuns) -> None:
    few = replace(runs.data, train=runs.data.train[:1], labels=runs.data.labels[:1], indices=runs.data.indices[:1])
    assert cast(runs, runs.data, 2)[1] is not None
    votes, model = cast(runs, few, 1)
    assert set(votes) == {ABSTAIN} and model is None, "the model of the run before is not this run's"


def test_a_run_may_take_no_image_of_a_class(runs: TrainingRuns) -> None:
    one_class = runs.data.labels == 0
    inside = taken(runs.data, 2)
    labels = np.where(inside, 0, runs.data.labels)
    votes, _ = cast(runs, replace(runs.data, labels=labels), 2)
    assert set(votes) == {0} and not one_class.all()


ASKED: dict[str, Any] = {
    "runs": 8, "alpha": "0.3", "sigma": "0", "subsample": "0.5", "recipe": "tiny@12", "bound": "union", "device": "cpu",
    "workers": 1, "batch_size": 8,
}  # fmt: skip


def test_a_certificate_of_whole_images_without_noise(tmp_path: Path, transparent: str) -> None:
    """From end to end: two classes that are easy to tell apart, so that most runs agree."""
    raw = tmp_path / "raw"
    for label, name in enumerate(("dark", "light")):
        for number in range(10):
            folder = raw / ("train" if number < 8 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / f"{number}.png", 40 + 150 * label, number)
    out = tmp_path / "certificate"
    told = certify(raw, out, denoiser=transparent, **ASKED)
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["terms"]["subsample"] == WORD // 2 and certificate["terms"]["tau"] == "0"
    claimed = [point for point in certificate["points"] if point["class"] >= 0]
    assert claimed and told.certified == len(claimed) and told.images == 16
    # with half of the images in a run, one change may touch every second one: only what was put in can be withstood
    assert {point["images_inserted"] for point in claimed if point["k_a"] == 8} == {1}
    assert {point["images_changed"] for point in certificate["points"]} == {0}
    assert all(point["certified_radius"] == "0.000000" for point in certificate["points"])
    assert certificate["accuracy_by_images"]["images_inserted"][-1]["images"] == 1
    assert "images_inserted" in (out / "certified.tsv").read_text().splitlines()[0]
    assert verify(out).certified == len(claimed)
    page = (out / "report.html").read_text()
    assert "Against whole images" in page and "By radius" not in page and "radius 0.000000" not in page

    forged = json.loads((out / "certificate.json").read_text())
    shutil.copytree(out, tmp_path / "forged")
    for point in forged["points"]:
        point["images_inserted"] += 1
    (tmp_path / "forged" / "certificate.json").write_text(json.dumps(forged))
    with pytest.raises(DifferenceError, match="images_inserted"):
        verify(tmp_path / "forged")


def test_with_noise_both_are_certified_and_kept_models_say_both(raw: Path, tmp_path: Path, transparent: str) -> None:
    out, asked = tmp_path / "out", ASKED | {"sigma": "0.5", "subsample": "0.9", "with_images": "2,1"}
    told = certify(raw, out, denoiser=transparent, keep_models=True, **asked)
    assert float(told.ceiling) > 0 and told.accuracy_by_images is not None
    verify(out)
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["terms"]["with_images"] == [1, 2]
    points, images, remarks = certificate["points"], shutil.copytree(raw / "test", tmp_path / "images"), list[str]()
    steps = list[Progress]()
    (images / "red" / "broken.png").write_bytes(b"")
    for image, point in zip(predict(out, images, on_remark=remarks.append, progress=steps.append), points, strict=True):
        assert (image.votes, image.certified_radius) == (point["k_a"], point["certified_radius"])
        assert image.whole == {kind: point[kind] for kind in image.whole} and len(image.whole) == 3
    assert steps[-1].finished == steps[-1].total == len(steps) > 1
    assert remarks == ["images that cannot be used and are left out: 1 (1 empty: 'red/broken.png')"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subsample": "0"}, "share"),
        ({"subsample": "1"}, "share"),
        ({"subsample": None}, "--subsample"),
        ({"limit": 26}, "--limit"),
        ({"threat": "noised-test"}, "test image"),
        ({"subsample": "0.9999999"}, "so large a share"),
        ({"subsample": "0.02"}, "give a --subsample of at least 0.1"),  # of 18 images nearly no run has 2
        ({"runs": 3}, "give at least 5 runs"),
        ({"with_images": "1"}, "--with-images"),
        ({"with_images": "1", "subsample": None, "sigma": "0.5"}, "--with-images"),
        ({"with_images": "0"}, "numbers of images"),
        ({"with_images": "1000", "sigma": "0.5"}, "--with-images"),
    ],
)
def test_what_would_prove_nothing_is_refused(
    raw: Path, tmp_path: Path, transparent: str, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        certify(raw, tmp_path / "out", denoiser=transparent, **(ASKED | changed))
    assert said in str(refused.value)


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1", "1e-12", "much"])
def test_what_is_no_share_ends_with_exit_2_and_leaves_nothing(
    raw: Path, tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    line = ["certify", str(raw), "--sigma", "0", "--subsample", share, "--out", str(tmp_path / "out")]
    assert run(line) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "subsample" in said[0] and sorted(tmp_path.rglob("*")) == before


def test_a_look_ahead_says_what_a_run_takes_and_what_it_can_show(
    raw: Path, tmp_path: Path, transparent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["certify", str(raw), "--out", str(tmp_path / "out"), "--denoiser", transparent, "--device", "cpu",
            "--dry-run", "--sigma", "0", "--subsample", "0.5", "--runs", "8", "--alpha", "0.3", "--bound", "union",
            "--recipe", "tiny"]  # fmt: skip
    assert run(line) == 0
    said = capsys.readouterr().out
    assert "A run takes 9.0 of the images on average, with a standard deviation of 2.1." in said
    assert "up to 1 images may have been put in, or 0 changed, or 0 taken away" in said


def test_a_certificate_of_the_other_kind_is_kept(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Neither does a job on shares go on with one on all images, nor the other way round; nothing is lost."""
    out, asked = tmp_path / "out", ASKED | {"sigma": "0.25", "denoiser": transparent}
    certify(raw, out, **asked)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for other in ({"subsample": None}, {"subsample": "0.25"}):
        with pytest.raises(ConflictError, match="subsample"):
            certify(raw, out, **(asked | other))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_points_that_are_training_images_are_counted_and_said(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Their claims hold; that a model knows them flatters the accuracy."""
    told = certify(raw / "train", tmp_path / "out", test=raw / "train", denoiser=transparent, **ASKED)
    assert any("18 test points are training images too" in warning for warning in told.warnings)


def test_points_that_depend_on_all_images_are_refused(tmp_path: Path, transparent: str) -> None:
    flat = write_folder(tmp_path / "flat", 8)
    with pytest.raises(UsageError, match="held out"):
        certify(flat, tmp_path / "out", denoiser=transparent, **ASKED)


def _write(path: Path, level: int, number: int) -> None:
    from PIL import Image

    noise = np.random.default_rng([level, number]).integers(-20, 21, (16, 16, 3))
    Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(path)


def test_a_denoiser_that_takes_none_of_the_images_is_refused_before_any_run(raw: Path, tmp_path: Path) -> None:
    grey = str(make_denoiser(tmp_path / "grey", in_channels=1, out_channels=1))
    with pytest.raises(InputError, match="none of the 27 files") as refused:
        make_runs(raw, tmp_path, grey, subsample="0.3")
    assert refused.value.remedy == "give --denoiser one that takes 3 channels"
