"""Images that each run noises and denoises, then gives to a frozen extractor: what a head is fitted to, and what the
result of a run may depend on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dpclean.certificate.parameters import FormError
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import ABSTAIN, read_votes
from dpclean.certificate.whole_images import WORD
from dpclean.certify.data import Data
from dpclean.certify.division import Division
from dpclean.certify.dry_run import dry_run
from dpclean.certify.extracted import rows_of
from dpclean.certify.feature_runs import load_head
from dpclean.certify.head_runs import HeadRuns
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.job import certify
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters, whole
from dpclean.certify.predict import predict
from dpclean.certify.run_settings import make_run_settings
from dpclean.classifier_training.job import train
from dpclean.cli import run
from dpclean.errors import ConflictError, InputError, Interrupted, UsageError
from dpclean.noise.membership import members
from dpclean.pipeline.job import sanitize
from dpclean.train.extractor import find_extractor
from dpclean.train.features import features
from dpclean.train.ridge import Ridge, fit, votes
from tests.certify.test_extractor import shard
from tests.certify.test_training_runs import KEY, noised

SHARE = "0.3"
ASKED: dict[str, Any] = {
    "sigma": "0.25", "runs": 30, "subsample": SHARE, "alpha": "0.3", "bound": "union", "device": "cpu", "dtype": "fp32",
    "seed": 7, "seed_chosen_after_data": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("extractor")
    train(shard(root / "others", 20, 0), root / "model", recipe="tiny", device="cpu", seed=1)
    return str(root / "model")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    return {"raw": shard(root / "raw", 24, 1), "test": shard(root / "test", 6, 2), "root": root}


@pytest.fixture(scope="module")
def certificate(places: dict[str, Path], model: str, transparent: str) -> Path:
    out = places["root"] / "certificate"
    more = {"keep_models": True, "with_images": "1", "workers": 2}
    certify(places["raw"], out, test=places["test"], extractor=model, denoiser=transparent, **ASKED, **more)
    return out


def make_runs(raw: Path, model: str, denoiser: str, **options: Any) -> HeadRuns:
    """What does the runs of a job, in this process."""
    whole: dict[str, Any] = {
        "sigma": "0.25",
        "denoiser": denoiser,
        "device": "cpu",
        "dtype": "fp32",
        "extractor": model,
    }
    asked = CertifyOptions(**{**whole, "keep_models": True, **options})
    subject = read_certified_data(find_source(raw, asked), asked)
    settings = make_run_settings(subject, asked, make_parameters(subject, asked))
    runs = HeadRuns(settings, subject.classes, KEY)
    runs.prepare(Data.of(subject.train, subject.points, subject.division))
    return runs


def results(runs: HeadRuns, *numbers: int) -> list[tuple[list[Any], bytes | None]]:
    return [(ballot.tolist(), model) for ballot, model in runs.results(numbers)]


def taken(data: Data, number: int) -> NDArray[np.bool_]:
    return np.isin(data.indices, members(KEY, number, int(float(SHARE) * WORD), 1000))


# -------------------------------------------------------------------------------------------------- what a run is


@pytest.mark.parametrize("threat", ["clean-test", "noised-test"])
def test_a_head_is_fitted_to_rows_of_images_with_noise_of_its_own(
    raw: Path, model: str, transparent: str, threat: str
) -> None:
    """Through a denoiser that takes nothing away: each image bears the noise of its run and of its index."""
    runs = make_runs(raw, model, transparent, subsample=SHARE, threat=threat)
    data, inside = runs.data, np.flatnonzero(taken(runs.data, 2))
    assert 2 <= len(inside) < len(data.train)
    extractor = find_extractor(model, device=torch.device("cpu"))
    members_of_it = [noised(data.train[i], 2, int(data.indices[i])).round().astype(np.uint8) for i in inside]
    head = fit(Ridge(), rows_of(extractor, members_of_it), data.labels[inside], 3)
    points = data.points
    if threat == "noised-test":
        points = [
            noised(p, 2, int(i), test=True).astype(np.uint8) for i, p in zip(data.point_indices, points, strict=True)
        ]
    ((ballot, kept),) = results(runs, 2)
    assert kept is not None and np.array_equal(load_head(kept, *head.weights.shape).weights, head.weights)
    assert ballot == votes([head], rows_of(extractor, points))[0].tolist()


def test_a_run_is_the_same_bits_alone_and_with_others_in_any_order(raw: Path, model: str, transparent: str) -> None:
    runs = make_runs(raw, model, transparent, subsample=SHARE)
    assert runs.at_once > 4
    together = dict(zip((4, 1, 3, 2), results(runs, 4, 1, 3, 2), strict=True))
    assert len({kept for _, kept in together.values()}) == 4
    for number in (1, 2, 3, 4):
        assert results(runs, number) == [together[number]]


def test_what_a_run_did_not_take_does_not_change_one_bit_of_it(raw: Path, model: str, transparent: str) -> None:
    """Nor does what runs beside it took."""
    runs = make_runs(raw, model, transparent, subsample=SHARE)
    data, inside = runs.data, taken(runs.data, 2)
    as_it_is = results(runs, 1, 2, 3)[1]
    garbage = np.full_like(data.train[0], 255)
    spoilt = replace(
        data,
        train=[image if kept else garbage for image, kept in zip(data.train, inside, strict=True)],
        labels=np.where(inside, data.labels, 0),
    )
    runs.prepare(spoilt)
    assert results(runs, 1, 2, 3)[1] == as_it_is
    absent = replace(
        data,
        train=[image for image, kept in zip(data.train, inside, strict=True) if kept],
        labels=data.labels[inside],
        indices=data.indices[inside],
    )
    runs.prepare(absent)
    assert results(runs, 2) == [as_it_is]
    runs.prepare(replace(data, train=[garbage if kept else i for i, kept in zip(data.train, inside, strict=True)]))
    assert results(runs, 2) != [as_it_is]


def test_a_run_that_takes_nothing_votes_for_nobody_beside_others(raw: Path, model: str, transparent: str) -> None:
    runs = make_runs(raw, model, transparent, subsample=SHARE)
    as_it_was = results(runs, 2)
    place = np.flatnonzero(taken(runs.data, 2) & ~taken(runs.data, 1))[:1]
    data = runs.data
    runs.prepare(replace(data, train=[data.train[place[0]]], labels=data.labels[place], indices=data.indices[place]))
    (nobody, none), (some, kept) = results(runs, 1, 2)
    assert set(nobody) == {ABSTAIN} and none is None
    assert set(some) == {int(data.labels[place[0]])} and kept is not None, "of one image the head knows one class"
    assert results(runs, 1) == [(nobody, none)] and as_it_was != [(some, kept)]


def test_a_part_is_the_same_bits_where_another_part_gains_an_image(raw: Path, model: str, transparent: str) -> None:
    runs = make_runs(raw, model, transparent, partitions=3, subsample=None)
    data = runs.data
    assert data.division is not None
    as_it_was = results(runs, 1, 2, 3)
    assert len(np.shape(as_it_was[0][0])) == 2, "rankings"
    grown = replace(
        data,
        train=[np.full_like(data.train[0], 9), *data.train],
        labels=np.array([2, *data.labels]),
        indices=np.array([0, *data.indices + 1]),
        division=Division(
            np.array([*data.division.part(0) + 1, *data.division.part(1) + 1, *data.division.part(2) + 1, 0]),
            data.division.sizes + np.array([0, 0, 1]),
        ),
    )
    runs.prepare(grown)
    now = results(runs, 3, 2, 1)[::-1]
    assert now[:2] == as_it_was[:2] and now[2] != as_it_was[2]


def test_an_image_that_the_extractor_has_no_numbers_for_says_nothing(model: str) -> None:
    extractor = find_extractor(model, device=torch.device("cpu"))
    images = [np.full((16, 16, 3), grey, np.uint8) for grey in (0, 255)]
    as_they_are = rows_of(extractor, images)
    assert as_they_are.any(axis=1).all() and rows_of(extractor, []).shape == (0, 64)
    with torch.no_grad():  # overflows for what is bright
        first = next(module for module in extractor.trainer.network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.fill_(3e38)
    rows = rows_of(extractor, images)
    assert np.isfinite(rows).all() and not rows.any(axis=1).all()


# ----------------------------------------------------------------------------------------------------- whole jobs


def test_from_images_to_a_certificate_with_radii(places: dict[str, Path], certificate: Path) -> None:
    found = json.loads((certificate / "certificate.json").read_text())
    terms = found["terms"]
    assert (terms["recipe"]["name"], terms["sigma"], terms["dimensions"], terms["size"]) == ("ridge", "0.25", 64, 16)
    assert terms["extractor"]["size"] == 16 and terms["denoiser"] and "rows_digest" not in terms
    assert terms["values"] == 24 * 16 * 16 * 3 and float(terms["tau"]) > 0
    said = " ".join(found["assumptions"])
    assert "The extractor is a constant" in said and "The denoiser is a constant" in said and "ChaCha20" in said
    certified = [point for point in found["points"] if point["class"] >= 0]
    assert certified and all(float(point["certified_radius"]) > 0 for point in certified)
    assert all(point["witness"] and point["images_inserted"] >= 1 for point in certified)
    assert any(float(point["with_images"][0]["certified_radius"]) > 0 for point in certified)
    assert verify(certificate).certified == len(certified)
    assert len(list((certificate / "models").glob("*.safetensors"))) == np.count_nonzero(
        (read_votes(certificate / "votes.safetensors").votes != ABSTAIN).all(axis=1)
    )


def test_images_are_classified_by_the_vote_of_heads_whose_extractor_is_found(
    places: dict[str, Path], certificate: Path, model: str, tmp_path: Path
) -> None:
    """Points once more: the votes that they had. In a folder, as one shard, or as rows that the same extractor made."""
    points = json.loads((certificate / "certificate.json").read_text())["points"]

    def said(found: list[Any]) -> list[tuple[int, str, int]]:
        return [(image.votes, image.certified_radius, image.whole["images_inserted"]) for image in found]

    there = [(point["k_a"], point["certified_radius"], point["images_inserted"]) for point in points]
    features(places["test"], tmp_path / "rows", extractor=model, device="cpu")
    for images in (places["test"], places["test"] / "s.safetensors", tmp_path / "rows"):
        assert said(predict(certificate, images, device="cpu")) == there
    shutil.copytree(model, tmp_path / "moved")
    assert said(predict(certificate, places["test"], extractor=str(tmp_path / "moved"), device="cpu")) == there
    asked = [
        "predict",
        str(certificate),
        str(places["test"]),
        "--extractor",
        str(tmp_path / "moved"),
        "--device",
        "cpu",
    ]
    assert run(asked) == 0


def test_another_extractor_than_the_heads_were_fitted_to_is_refused(
    places: dict[str, Path], certificate: Path, model: str, tmp_path: Path
) -> None:
    train(Path(model).parent / "others", tmp_path / "other", recipe="tiny", device="cpu", seed=2)
    with pytest.raises(InputError, match="not that of the certificate") as refused:
        predict(certificate, places["test"], extractor=str(tmp_path / "other"), device="cpu")
    assert "--extractor" in refused.value.remedy
    features(places["test"], tmp_path / "rows", extractor=model, device="cpu")
    with pytest.raises(UsageError, match="it has none to make"):
        predict(certificate, tmp_path / "rows", extractor=model, device="cpu")
    assert run(["predict", model, str(places["test"]), "--extractor", model]) == 2


def test_a_job_that_was_stopped_goes_on_to_the_same_votes(
    places: dict[str, Path], certificate: Path, model: str, transparent: str, tmp_path: Path
) -> None:
    """By one worker, which does other runs together than two do."""
    asked = ASKED | {"keep_models": True, "with_images": "1", "workers": 1, "extractor": model, "denoiser": transparent}

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        certify(places["raw"], tmp_path / "out", test=places["test"], progress=stop, **asked)
    certify(places["raw"], tmp_path / "out", test=places["test"], **asked)
    made, again = (read_votes(out / "votes.safetensors") for out in (certificate, tmp_path / "out"))
    assert np.array_equal(made.votes, again.votes) and made.models is not None and again.models is not None
    assert np.array_equal(made.models, again.models)


def test_what_sanitize_wrote_says_how_an_extractor_gets_its_images(
    places: dict[str, Path], model: str, transparent: str, tmp_path: Path
) -> None:
    """Sigma and method are those of the manifest, as for a network."""
    sanitize(places["raw"], tmp_path / "clean", sigma=0.5, denoiser=transparent, device="cpu")
    asked: dict[str, Any] = {"test": places["test"], "extractor": model, "denoiser": transparent, "workers": 1}
    told = certify(
        tmp_path / "clean", tmp_path / "out", runs=8, alpha="0.3", subsample="0.9", bound="union", device="cpu", **asked
    )
    terms = json.loads((tmp_path / "out" / "certificate.json").read_text())["terms"]
    assert terms["sigma"] == "0.5" and terms["extractor"] and told.failed == 0


def test_a_dry_run_tells_what_takes_its_time(
    places: dict[str, Path], model: str, transparent: str, tmp_path: Path
) -> None:
    told = dry_run(places["raw"], tmp_path / "out", test=places["test"], extractor=model, denoiser=transparent, **ASKED)
    assert list(told.seconds_by_part) == ["noise and denoise", "extract", "train and predict"]


def test_without_a_share_and_with_noised_points_there_are_radii_too(
    places: dict[str, Path], model: str, transparent: str, tmp_path: Path
) -> None:
    asked = ASKED | {
        "subsample": None,
        "threat": "noised-test",
        "extractor": model,
        "denoiser": transparent,
        "runs": 8,
        "workers": 1,
    }
    told = certify(places["raw"], tmp_path / "out", test=places["test"], **asked)
    assert told.certified > 0 and float(told.largest_radius) > 0
    terms = json.loads((tmp_path / "out" / "certificate.json").read_text())["terms"]
    assert terms["values"] == 25 * 16 * 16 * 3
    assert verify(tmp_path / "out").certified == told.certified


def test_parts_with_noise(places: dict[str, Path], model: str, transparent: str, tmp_path: Path) -> None:
    asked = {"partitions": 4, "sigma": "0.25", "extractor": model, "denoiser": transparent, "device": "cpu"}
    told = certify(places["raw"], tmp_path / "out", test=places["test"], workers=1, **asked)
    assert told.certified > 0 and verify(tmp_path / "out").certified == told.certified


# ------------------------------------------------------------------------------------------------------- refused


def test_an_extractor_that_was_made_from_the_data_is_refused(
    places: dict[str, Path], model: str, transparent: str, tmp_path: Path
) -> None:
    """With noised points also one that was made from these."""
    asked = ASKED | {"extractor": model, "denoiser": transparent}
    others = Path(model).parent / "others"
    with pytest.raises(InputError, match="to be certified went into the extractor"):
        certify(others, tmp_path / "out", test=places["test"], **asked)
    with pytest.raises(InputError, match="to be certified went into the extractor"):
        certify(places["raw"], tmp_path / "out", test=others, threat="noised-test", **asked)


def test_another_extractor_than_the_job_was_begun_with_does_no_runs(raw: Path, model: str, transparent: str) -> None:
    runs = make_runs(raw, model, transparent, subsample=SHARE)
    with pytest.raises(ConflictError, match="not the one that the job was begun with"):
        HeadRuns(replace(runs.settings, extractor_digest="0" * 64), ("a", "b", "c"), KEY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sigma": None, "dtype": "auto"}, "--denoiser has no meaning where an extractor"),
        ({"sigma": "0", "denoiser": None}, "--dtype has no meaning where an extractor"),
        ({"recipe": "tiny"}, "a head is trained"),
        ({"trainer": "x {data} {test} {out}"}, "--trainer has no meaning"),
        ({"init": "x"}, "--init has no meaning"),
    ],
)
def test_what_does_not_go_with_an_extractor(
    places: dict[str, Path], model: str, transparent: str, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    asked = ASKED | {"extractor": model, "denoiser": transparent, "test": places["test"]} | changed
    with pytest.raises(UsageError, match=said):
        certify(places["raw"], tmp_path / "out", **asked)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows_digest": "0" * 64}, "terms.extractor does not go"),
        ({"sigma": "0", "tau": "0", "tau1": "0"}, "terms.extractor does not go"),
        ({"sigma": "0", "tau": "0", "tau1": "0", "rows_digest": "0" * 64}, "without noise, and so is a denoiser"),
        ({"denoiser": None}, "terms.denoiser is null"),
    ],
)
def test_terms_that_do_not_fit_each_other_are_none(certificate: Path, changed: dict[str, Any], said: str) -> None:
    parameters = read_votes(certificate / "votes.safetensors").parameters
    terms = json.loads((certificate / "certificate.json").read_text())["terms"]
    terms["point_names"] = parameters.point_names
    with pytest.raises(FormError, match=said):
        whole(terms | changed, {}, terms["engine"])
