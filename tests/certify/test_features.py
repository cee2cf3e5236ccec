"""Certificates of rows of features: whole jobs, what a run depends on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpclean.certificate.verify import verify
from dpclean.certificate.votes import ABSTAIN, read_votes
from dpclean.certify.dry_run import dry_run
from dpclean.certify.feature_inputs import read_certified_features
from dpclean.certify.feature_runs import FeatureData, FeatureRuns, load_head
from dpclean.certify.job import certify
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.certify.predict import predict
from dpclean.cli import run
from dpclean.errors import InputError, UsageError
from dpclean.noise.keys import key_from_seed
from tests.data.test_features import write
from tests.kills import killed_again_and_again

CENTRES = np.random.default_rng(0).standard_normal((3, 20))
ASKED: dict[str, Any] = {"runs": 100, "subsample": "0.1", "alpha": "0.01"}


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (CENTRES[labels] + 0.5 * draw.standard_normal((count, 20))).astype(np.float32), labels


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "features": write(tmp_path / "train.safetensors", *rows(240, 1), class_names=["a", "b", "c"]),
        "test_features": write(tmp_path / "test.safetensors", *rows(20, 2), class_names=["a", "b", "c"]),
    }


def runs_of(files: dict[str, Path], key: bytes = bytes(32), **options: Any) -> FeatureRuns:
    asked = CertifyOptions(**{**ASKED, **files, **options})
    certified = read_certified_features(asked)
    return FeatureRuns(make_parameters(certified, asked), key, FeatureData.of(certified.train, certified.points))


def test_a_certificate_of_features_from_end_to_end(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "certificate"
    told = certify(out=out, **files, **ASKED, keep_models=True, workers=1)
    assert (told.runs, told.points, told.images) == (100, 20, 240) and told.certified > 10
    certificate = json.loads((out / "certificate.json").read_text())
    terms = certificate["terms"]
    assert terms["raw"]["kind"] == "features" and terms["dimensions"] == 20 and terms["values"] == 4800
    assert (terms["denoiser"], terms["size"], terms["sigma"], terms["tau"]) == (None, None, "0", "0")
    assert any("row of numbers" in sentence for sentence in certificate["assumptions"])
    assert verify(out).certified == told.certified
    for image, point in zip(predict(out, files["test_features"]), certificate["points"], strict=True):
        assert image.votes == point["k_a"] and image.whole["images_changed"] == point["images_changed"]
    assert certify(out=out, **files, **ASKED, keep_models=True).already_complete
    kept = (out / "models/0000001.safetensors").read_bytes()
    load_head(kept, 20, 3)
    for model, dimensions, classes in ((b"", 20, 3), (kept, 19, 3), (kept, 20, 2)):  # that anybody may have put there
        with pytest.raises(InputError, match="a model that was kept"):
            load_head(model, dimensions, classes)
    assert dry_run(out=tmp_path / "other", **files, **ASKED).images == 240


def test_a_prediction_says_of_how_many_runs_its_votes_are(files: dict[str, Path], tmp_path: Path) -> None:
    certify(out=tmp_path / "out", **files, **ASKED | {"bound": "cohen"}, keep_models=True, workers=1)
    found = predict(tmp_path / "out", files["test_features"])
    assert {image.runs for image in found} == {90} and max(image.votes for image in found) == 90  # 10 of 100 select


def test_runs_are_the_same_one_by_one_and_together_and_by_whoever_does_them(
    files: dict[str, Path], tmp_path: Path
) -> None:
    runs = runs_of(files, keep_models=True)
    together = list(runs.results(range(1, 41)))
    for number in (1, 7, 33):
        ((row, model),) = runs.results([number])
        assert (row == together[number - 1][0]).all() and model == together[number - 1][1]
    asked = ASKED | {"seed": 3, "seed_chosen_after_data": True}
    certify(out=tmp_path / "out", **files, **asked, workers=2)
    by_two = read_votes(tmp_path / "out" / "votes.safetensors").votes
    key = key_from_seed(3, "certify")
    alone = runs_of(files, key, seed=3, seed_chosen_after_data=True).results(range(1, 41))
    assert (by_two[:40] == [row for row, _ in alone]).all()


def test_killed_at_every_stage_the_same_command_makes_the_same_certificate(
    files: dict[str, Path], tmp_path: Path
) -> None:
    given = {name: str(path) for name, path in files.items()} | ASKED | {"seed": 3, "seed_chosen_after_data": True}
    killed_again_and_again(
        tmp_path,
        "from dpclean.certify import job, save\nfrom dpclean.jobs import job as jobs, staging\n"
        "import matplotlib.backends.backend_agg, matplotlib.backends.backend_svg",
        f"job.certify(out=out, workers=1, **{given!r})",
        ["job, write_key, 1", "job.WorkerGroup, _reap, 2", "save, write_durably, 3", "staging, sync_folder, 1"],
    )


def test_with_many_points_and_classes_fewer_runs_are_done_at_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_of(files).at_once == 32
    monkeypatch.setattr("dpclean.certify.feature_runs.MOST_SCORES", 5 * 3 * 20 + 1)  # classes, points
    assert runs_of(files).at_once == 5
    monkeypatch.setattr("dpclean.certify.feature_runs.MOST_SCORES", 1)
    assert runs_of(files).at_once == 1


@pytest.fixture
def wide(tmp_path: Path) -> dict[str, Path]:
    """Rows of more numbers than a run has members, near enough to each other for heads to disagree."""
    draw = np.random.default_rng(8)
    centres = 0.3 * draw.standard_normal((3, 64))

    def some(name: str, count: int) -> Path:
        values = (centres[np.arange(count) % 3] + draw.standard_normal((count, 64))).astype(np.float32)
        return write(tmp_path / name, values, np.arange(count) % 3, class_names=["a", "b", "c"])

    return {"features": some("wide-train", 100), "test_features": some("wide-test", 80)}


def test_many_runs_find_the_same_votes_by_products(
    wide: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**ASKED, "runs": 300, "seed": 1, "seed_chosen_after_data": True, "workers": 1}
    runs, said = runs_of(wide, runs=300), list[str]()
    assert runs.by_products
    together = list(runs.results(range(1, 101)))
    ((alone, _),) = runs_of(wide, runs=300).results([7])
    assert (alone == together[6][0]).all()
    certify(out=tmp_path / "products", **wide, **asked, say=said.append)
    assert not any("memory" in sentence for sentence in said)
    monkeypatch.setattr("dpclean.certify.feature_runs.MOST_PRODUCTS", 1)
    without = runs_of(wide, runs=300)
    assert not without.by_products
    for (row, _), (by_products, _) in zip(without.results(range(1, 101)), together, strict=True):
        assert (row == by_products).all()
    certify(out=tmp_path / "few", **wide, **{**asked, "runs": 200}, say=said.append)
    assert sum("too many to keep" in sentence for sentence in said) == 1


def test_what_a_run_did_not_take_does_not_change_one_bit_of_it(files: dict[str, Path]) -> None:
    runs = runs_of(files, keep_models=True)
    taken = runs._taken(3)
    assert 0 < len(taken) < 240
    ((row, model),) = runs.results([3])
    spoilt = runs.data.train.copy()
    spoilt[np.setdiff1d(np.arange(240), taken)] = 2.0**-12
    labels = np.zeros(240, np.int64)
    labels[taken] = runs.data.labels[taken]
    for data in (
        FeatureData(spoilt, labels, runs.data.indices, runs.data.points),
        FeatureData(runs.data.train[taken], labels[taken], taken, runs.data.points),  # the rest is not there
    ):
        ((again, same),) = FeatureRuns(runs.parameters, runs.key, data).results([3])
        assert (again == row).all() and same == model
    other = FeatureData(-spoilt, labels, runs.data.indices, runs.data.points)
    assert list(FeatureRuns(runs.parameters, runs.key, other).results([3]))[0][1] != model


def test_a_run_that_takes_nothing_votes_for_nobody_beside_others_that_vote(files: dict[str, Path]) -> None:
    runs = runs_of(files, keep_models=True)
    few = FeatureData(runs.data.train[:4], runs.data.labels[:4], runs.data.indices[:4], runs.data.points)
    runs = FeatureRuns(runs.parameters, runs.key, few)
    found = list(runs.results(range(1, 21)))
    empty = [number for number in range(1, 21) if not len(runs._taken(number))]
    assert 0 < len(empty) < 20
    for number, (row, model) in enumerate(found, 1):
        assert ((row == ABSTAIN).all(), model is None) == (number in empty, number in empty)
    assert all((row == ABSTAIN).all() for row, _ in runs.results(empty))


def test_a_row_that_is_not_finite_is_in_no_run(files: dict[str, Path], tmp_path: Path) -> None:
    values, labels = rows(240, 1)
    values[5] = np.inf
    runs = runs_of({**files, "features": write(tmp_path / "nan", values, labels, class_names=["a", "b", "c"])})
    whole = runs_of(files)
    assert runs.parameters.raw.quarantined == {"not-finite": 1} and runs.parameters.raw.listed == 240
    for number in range(1, 30):
        there = set(whole.data.indices[whole._taken(number)].tolist()) - {5}
        assert set(runs.data.indices[runs._taken(number)].tolist()) == there


def test_points_that_are_training_rows_are_counted(files: dict[str, Path], tmp_path: Path) -> None:
    values, labels = rows(240, 1)
    points = write(tmp_path / "seen", values[:3], labels[:3], class_names=["a", "b", "c"])
    assert (
        read_certified_features(CertifyOptions(**ASKED, **{**files, "test_features": points})).points_in_training == 3
    )


@pytest.mark.parametrize(
    ("test", "metadata", "said"),
    [
        (np.ones((2, 21), np.float32), {}, "rows of 20 numbers"),
        (np.array([[1.0] * 20, [np.nan] * 20], np.float32), {}, "row 1 of"),
        (np.ones((2, 20), np.float32), {"class_names": ["a", "z"]}, "'z'"),
    ],
)
def test_points_that_do_not_fit(
    files: dict[str, Path], tmp_path: Path, test: np.ndarray, metadata: dict[str, Any], said: str
) -> None:
    points = write(tmp_path / "points", test, np.array([0, 1]) if metadata else None, **metadata)
    with pytest.raises(InputError, match=said):
        certify(out=tmp_path / "out", **{**files, "test_features": points}, **ASKED)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test_features": None}, "give both"),
        ({"features": None}, "give both"),
        ({"denoiser": "natural"}, "--denoiser is about images"),
        ({"sigma": "0.25"}, "--sigma is about images"),
        ({"recipe": "tiny"}, "trains on images"),
        ({"freeze": True}, "--freeze is about images"),
        ({"subsample": None}, "--subsample"),
        ({"threat": "noised-test"}, "sigma is 0"),
        ({"features": None, "test_features": None, "recipe": "ridge"}, "there are images"),
    ],
)
def test_what_does_not_go_with_features(
    files: dict[str, Path], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        certify(out=tmp_path / "out", **{**files, **ASKED, **changed})


def test_the_command_line_refuses_a_folder_beside_features(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
    assert run(["certify", "somewhere", *given, "--subsample", "0.1"]) == 2
    assert "CLEAN is about images" in capsys.readouterr().err


def test_a_class_without_a_row_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    train = write(tmp_path / "t", *rows(30, 1), class_names=["a", "b", "c", "d"])
    with pytest.raises(InputError, match="'d'"):
        certify(out=tmp_path / "out", **{**files, "features": train}, **ASKED)
