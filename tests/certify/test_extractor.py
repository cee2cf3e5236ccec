"""Images that a frozen network turns into rows: one command from images to a certificate, and what is pinned in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpclean.certificate.parameters import FormError, Partitions, from_json
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import read_votes
from dpclean.certify.dry_run import dry_run
from dpclean.certify.job import certify
from dpclean.certify.parameters import whole
from dpclean.certify.predict import predict
from dpclean.classifier_training.job import train
from dpclean.errors import InputError, UsageError
from dpclean.train.features import features

ASKED: dict[str, Any] = {
    "runs": 30, "subsample": "0.3", "alpha": "0.3", "bound": "union", "device": "cpu", "workers": 1,
}  # fmt: skip


def shard(root: Path, count: int, seed: int) -> Path:
    """Dark and light noise."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 120, (count, 16, 16, 3)) + 100 * labels[:, None, None, None]
    root.mkdir(parents=True)
    named = {"class_names": json.dumps(["dark", "light"])}
    save_file({"images": pixels.astype(np.uint8), "labels": labels}, root / "s.safetensors", named)
    return root


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    train(shard(root / "others", 20, 0), root / "model", recipe="tiny", device="cpu", seed=1)
    return {
        "model": root / "model",
        "raw": shard(root / "raw", 24, 1),
        "test": shard(root / "test", 6, 2),
        "root": root,
    }


@pytest.fixture(scope="module")
def certificate(places: dict[str, Path]) -> Path:
    out = places["root"] / "certificate"
    asked = ASKED | {"seed": 7, "seed_chosen_after_data": True, "keep_models": True}
    certify(places["raw"], out, test=places["test"], extractor=str(places["model"]), **asked)
    return out


def test_from_images_to_a_certificate_in_one_command(places: dict[str, Path], certificate: Path) -> None:
    terms = json.loads((certificate / "certificate.json").read_text())["terms"]
    assert terms["raw"]["kind"] == "shards" and terms["recipe"]["name"] == "ridge" and terms["denoiser"] is None
    assert (terms["extractor"]["size"], terms["dimensions"], terms["sigma"]) == (16, 64, "0")
    assert terms["extractor"]["ancestry"] == {"images": 20, "gaps": [], "points": 0}
    sentences = json.loads((certificate / "certificate.json").read_text())["assumptions"]
    assert any(
        "The extractor is a constant" in sentence and "None of the 20 images" in sentence for sentence in sentences
    )
    assert verify(certificate).certified > 0
    asked = ASKED | {"seed": 7, "seed_chosen_after_data": True, "keep_models": True}
    again = certify(places["raw"], certificate, test=places["test"], extractor=str(places["model"]), **asked)
    assert again.already_complete


def test_files_of_features_in_between_give_the_same_votes(places: dict[str, Path], certificate: Path) -> None:
    root = places["root"]
    for name in ("raw", "test"):
        features(places[name], root / f"{name}.rows", extractor=str(places["model"]), device="cpu")
    asked = ASKED | {"seed": 7, "seed_chosen_after_data": True}
    certify(out=root / "rows", features=root / "raw.rows", test_features=root / "test.rows", **asked)
    votes = [read_votes(out / "votes.safetensors").votes for out in (certificate, root / "rows")]
    assert np.array_equal(*votes)
    points = json.loads((certificate / "certificate.json").read_text())["points"]
    for given in (root / "test.rows", places["test"]):
        assert [image.votes for image in predict(certificate, given)] == [point["k_a"] for point in points]


def test_rows_of_another_extractor_are_refused(places: dict[str, Path], certificate: Path) -> None:
    root = places["root"]
    features(places["test"], root / "mine.rows", extractor=str(places["model"]), device="cpu")
    rows = load_file(root / "mine.rows")
    save_file(rows, root / "other.rows", {"extractor": json.dumps({"digest": "0" * 64})})
    with pytest.raises(InputError, match="by another extractor"):
        predict(certificate, root / "other.rows")
    with pytest.raises(InputError, match="two different extractors"):
        certify(out=root / "x", features=root / "mine.rows", test_features=root / "other.rows", **ASKED)
    save_file(rows, root / "odd.rows", {"extractor": "[1"})
    assert len(predict(certificate, root / "odd.rows")) == 6


def test_an_extractor_that_was_made_from_the_data_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="to be certified went into the extractor"):
        certify(
            places["root"] / "others", tmp_path / "out", test=places["test"], extractor=str(places["model"]), **ASKED
        )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_how_long_the_extractor_takes(places: dict[str, Path], tmp_path: Path) -> None:
    told = dry_run(places["raw"], tmp_path / "out", test=places["test"], extractor=str(places["model"]), **ASKED)
    assert told.images == 24 and "train and predict" in told.seconds_by_part and len(told.seconds_by_part) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": "tiny"}, "a head is trained"),
        ({"denoiser": "natural"}, "--denoiser has no meaning"),
        ({"freeze": True}, "--freeze has no meaning"),
        ({"extractor": None, "weights": "w"}, "--weights are those of an --extractor"),
        ({"subsample": None}, "--subsample"),
    ],
)
def test_what_does_not_go_with_an_extractor(
    places: dict[str, Path], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    asked = ASKED | {"extractor": str(places["model"]), "test": places["test"]} | changed
    with pytest.raises(UsageError, match=said):
        certify(places["raw"], tmp_path / "out", **asked)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows_digest": None}, "rows_digest"),
        ({"dimensions": None}, "terms.extractor does not go"),
        ({"extractor": None}, "training data are images"),
    ],
)
def test_terms_that_do_not_fit_each_other_are_none(certificate: Path, changed: dict[str, Any], said: str) -> None:
    parameters = read_votes(certificate / "votes.safetensors").parameters
    terms = json.loads((certificate / "certificate.json").read_text())["terms"] | {
        "point_names": parameters.point_names
    }
    assert from_json(terms) == parameters
    forged = {name: value for name, value in (terms | changed).items() if value is not None or name not in changed}
    with pytest.raises(FormError, match=said):
        whole(forged, {}, terms["engine"])


def test_parts_of_images_that_an_extractor_turns_into_rows(places: dict[str, Path]) -> None:
    """One head a part: each is trained on the rows of the images of its part alone."""
    out = places["root"] / "parts"
    certify(
        places["raw"], out, test=places["test"], extractor=str(places["model"]), partitions=4, device="cpu", workers=1
    )
    votes = read_votes(out / "votes.safetensors")
    assert votes.rankings is not None and votes.rankings.shape == (4, 6, 2)
    assert votes.parameters.partitions == Partitions(parts=4, by="content")
    assert verify(out).certified > 0
