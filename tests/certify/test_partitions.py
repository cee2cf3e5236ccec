"""One model a part of the images: what a part is, that no other one is anything to its run, and what is certified."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dpclean.certificate.elections import NO_RANKING
from dpclean.certificate.parameters import Partitions
from dpclean.certificate.partitions import part_of
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import read_votes
from dpclean.certify.data import Data
from dpclean.certify.division import Division, divide, divided, divided_by, word_of_name
from dpclean.certify.dry_run import dry_run
from dpclean.certify.external_votes import certify_votes
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.job import certify
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.certify.predict import predict
from dpclean.certify.runs import ballot_of
from dpclean.certify.training_runs import TrainingRuns
from dpclean.data.dataset import read_images
from dpclean.data.digest import content_sha256
from dpclean.data.features import read_features
from dpclean.errors import Interrupted, UsageError
from tests.certify.conftest import ALWAYS_RED, colour_image, trainer_command, write_folder
from tests.certify.test_training_runs import make_runs

PARTS: dict[str, Any] = {"partitions": 4, "recipe": "tiny@12", "device": "cpu", "workers": 1}


# ------------------------------------------------------------------------------------------------- what a part is


def test_the_class_and_the_split_say_nothing_of_the_part(raw: Path) -> None:
    assert word_of_name("train/red/deep/001.png", in_split=True) == b"deep/001.png"
    assert word_of_name("red/001.png", in_split=False) == b"001.png"
    images = read_images(raw)
    parts = divide(images, 5, None)
    of = {images.names[place]: number for number in range(5) for place in parts.part(number)}
    assert len(of) == len(images) and parts.sizes.sum() == len(images)
    assert of["train/red/001.png"] == of["train/blue/001.png"] == part_of(b"001.png", 5)


def test_within_a_part_images_are_in_the_order_of_their_words_then_of_the_listing() -> None:
    assert divided([b"b", b"a", b"c", b"a"], 1).order.tolist() == [1, 3, 0, 2]


def test_content_is_shape_type_and_values() -> None:
    values = np.arange(12, dtype=np.uint8)
    words = {
        content_sha256(values.reshape(2, 2, 3)),
        content_sha256(values.reshape(2, 3, 2)),
        content_sha256(values.reshape(2, 2, 3).astype(np.float32)),
        content_sha256(values[::-1].reshape(2, 2, 3)),
        content_sha256(values),
    }
    assert len(words) == 5
    big = values.astype(">f4")
    assert content_sha256(big) == content_sha256(big.astype("<f4"))


def shards(path: Path, extra: int = 0) -> Path:
    """Shards of the colour images; extra: rows put in at the top."""
    pairs = [(2, 900 + row) for row in range(extra)] + [(label, number) for label in range(3) for number in range(8)]
    path.mkdir()
    tensors: dict[str, Any] = {
        "images": np.stack([colour_image(*pair) for pair in pairs]),
        "labels": np.array([label for label, _ in pairs], np.int64),
    }
    save_file(tensors, path / "data.safetensors", {"class_names": json.dumps(["blue", "green", "red"])})
    return path


def contents(path: Path) -> list[list[bytes]]:
    images = read_images(path)
    division = divide(images, 4, None)
    return [[images.pixels[place].tobytes() for place in division.part(part)] for part in range(4)]


def test_one_row_put_in_at_the_top_of_a_shard_touches_one_part(tmp_path: Path) -> None:
    before, after = contents(shards(tmp_path / "before")), contents(shards(tmp_path / "after", extra=1))
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_equal_rows_with_other_labels_stay_in_their_order_where_a_row_is_put_in(tmp_path: Path) -> None:
    """Rows 9 and 10 become 10 and 11, which as text are the other way round."""
    orders = []
    for name, extra in (("before", 0), ("after", 1)):
        features = np.concatenate([np.full((extra, 4), 7), np.ones((20, 4))]).astype(np.float32)
        labels = np.array([0] * extra + [row % 2 for row in range(20)])
        save_file({"features": features, "labels": labels}, tmp_path / name)
        found = read_features(tmp_path / name)
        ones = [place for place in divide(found, 4, None).order if found.rows[place, 0] == found.rows[-1, 0]]
        orders.append([place - extra for place in ones if place >= extra])
    assert orders == [list(range(20))] * 2


def test_names_that_are_numbers_of_rows_are_refused(tmp_path: Path, transparent: str) -> None:
    """That row would rename all others, and so move every part."""
    raw, test = shards(tmp_path / "raw"), write_folder(tmp_path / "test", 1)
    asked: dict[str, Any] = {"test": test, "denoiser": transparent, **PARTS}
    with pytest.raises(UsageError, match="numbers of rows"):
        certify(raw, tmp_path / "out", partition_by="name", **asked)
    options = CertifyOptions(**asked)
    parameters = make_parameters(read_certified_data(find_source(raw, options), options), options)
    assert parameters.partitions == Partitions(parts=4, by="content")


def rows(path: Path, extra: int = 0, names: list[str] | None = None) -> Path:
    """A file of features: two classes that are easy to tell apart; extra: rows put in at the top."""
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 2, 60)
    features = (draw.normal(size=(60, 8)) + 4 * np.eye(8)[labels]).astype(np.float32)
    put_in = np.random.default_rng(5).normal(size=(extra, 8)).astype(np.float32)
    metadata = {"class_names": json.dumps(["cat", "dog"])} | ({"names": json.dumps(names)} if names else {})
    tensors = {"features": np.concatenate([put_in, features]), "labels": np.array([1] * extra + labels.tolist())}
    save_file(tensors, path, metadata)
    return path


def test_rows_of_features_are_divided_by_content_or_by_names_of_their_own(tmp_path: Path) -> None:
    before, after = read_features(rows(tmp_path / "before")), read_features(rows(tmp_path / "after", extra=1))
    parts = [
        [[found.rows[place].tolist() for place in divide(found, 4, None).part(part)] for part in range(4)]
        for found in (before, after)
    ]
    assert sum(old != new for old, new in zip(*parts, strict=True)) == 1
    with pytest.raises(UsageError, match="numbers of rows"):
        divided_by(before, "name")
    of_shards = read_features(rows(tmp_path / "of-shards", names=[f"a.safetensors#{row}" for row in range(60)]))
    with pytest.raises(UsageError, match="numbers of rows"):
        divided_by(of_shards, "name")
    numbers = ["another", *(f"a.safetensors#{row}" for row in range(59))]  # one with a name does not help the others
    with pytest.raises(UsageError, match="numbers of rows"):
        divided_by(read_features(rows(tmp_path / "most", names=numbers)), "name")
    plain = read_features(rows(tmp_path / "plain", names=[str(row) for row in range(60)]))
    with pytest.raises(UsageError, match="numbers of rows"):
        divided_by(plain, "name")
    with pytest.raises(UsageError, match="numbers of rows"):
        divided_by(plain.take(plain.labels == 0), "name")
    named = read_features(rows(tmp_path / "named", names=[f"n{row % 7}" for row in range(60)]))
    assert (divided_by(named, "name"), divided_by(named, None)) == ("name", "content")
    part = divide(named, 4, "name").part(part_of(b"n3", 4))
    assert [named.names[place] for place in part].count("n3") == named.names.count("n3")


def test_a_certificate_of_parts_of_rows(tmp_path: Path) -> None:
    out, test = tmp_path / "out", rows(tmp_path / "test")
    told = certify(
        out=out, features=rows(tmp_path / "train"), test_features=test, partitions=6, keep_models=True, workers=1
    )
    assert told.partitions == 6 and told.correct and told.correct > 50 and verify(out).certified == told.certified
    points = json.loads((out / "certificate.json").read_text())["points"]
    assert "images_changed_in_place" not in points[0] and max(point["images_inserted"] for point in points) >= 2
    assert [image.votes for image in predict(out, test)] == [point["k_a"] for point in points]


def test_a_look_ahead_tells_of_parts_and_writes_nothing(tmp_path: Path, raw: Path, transparent: str) -> None:
    told = dry_run(
        out=tmp_path / "out", features=rows(tmp_path / "train"), test_features=rows(tmp_path / "test"), partitions=6
    )
    assert (told.runs, told.ceiling, told.members) == (6, "0.000000", None) and not (tmp_path / "out").exists()
    assert dry_run(raw, tmp_path / "out", denoiser=transparent, **PARTS).runs == 4


def test_votes_of_parts_are_read_under_their_own_election_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = {"features": rows(tmp_path / "train"), "test_features": rows(tmp_path / "test")}
    told = certify(out=out, partitions=6, workers=1, **given)
    again = certify_votes(out / "votes.safetensors", tmp_path / "again")
    assert again.certified == told.certified == verify(tmp_path / "again").certified
    with pytest.raises(UsageError, match="one model a part"):
        certify_votes(out / "votes.safetensors", tmp_path / "other", bound="union", exploratory=True)


def test_a_job_that_was_stopped_and_shared_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two processes that share the runs, and a command that goes on after a signal, against one that does all alone."""
    asked: dict[str, Any] = {
        "features": rows(tmp_path / "train"), "test_features": rows(tmp_path / "test"), "partitions": 40,
        "seed": 3, "seed_chosen_after_data": True,
    }  # fmt: skip
    made = []
    for name, workers in (("alone", 1), ("shared", 2)):
        certify(out=tmp_path / name, workers=workers, **asked)
        made.append((tmp_path / name / "votes.safetensors").read_bytes())
    assert made[0] == made[1]
    stopped: list[object] = []

    def stop(step: object) -> None:
        if not stopped:  # a second signal would stop at once
            os.kill(os.getpid(), signal.SIGINT)
        stopped.append(step)

    with pytest.raises(Interrupted):
        certify(out=tmp_path / "stopped", workers=1, progress=stop, **asked)
    certify(out=tmp_path / "stopped", workers=1, **asked)
    assert (tmp_path / "stopped" / "votes.safetensors").read_bytes() == made[0]


# ---------------------------------------------------------------------------------- no other part is anything to it


def cast(runs: TrainingRuns, data: Data, number: int) -> tuple[list[Any], bytes | None]:
    runs.prepare(data)
    return runs.cast(number).tolist(), runs.model()


@pytest.mark.parametrize("sigma", ["0", "0.5"])
def test_a_run_is_the_same_to_the_bit_where_another_part_gains_an_image(
    raw: Path, tmp_path: Path, transparent: str, sigma: str
) -> None:
    """With noise too: it belongs to places within the part, as all indices behind an image that is put in move."""
    runs = make_runs(raw, tmp_path, transparent, partitions=3, sigma=sigma, keep_models=True)
    data = runs.data
    assert data.division is not None
    as_it_was = [cast(runs, data, number) for number in (1, 2, 3)]
    assert as_it_was[1] != as_it_was[2] and as_it_was[0][1] is not None
    grown = replace(  # put in at the top: in part 2, last in its order
        data,
        train=[np.full_like(data.train[0], 9), *data.train],
        labels=np.array([2, *data.labels]),
        indices=np.array([0, *data.indices + 1]),
        division=Division(
            np.array([*data.division.part(0) + 1, *data.division.part(1) + 1, *data.division.part(2) + 1, 0]),
            data.division.sizes + np.array([0, 0, 1]),
        ),
    )
    now = [cast(runs, grown, number) for number in (3, 2, 1)][::-1]
    assert now[:2] == as_it_was[:2] and now[2] != as_it_was[2]


def test_a_part_that_is_too_small_votes_for_nobody(raw: Path, tmp_path: Path, transparent: str) -> None:
    runs = make_runs(raw, tmp_path, transparent, partitions=3, sigma="0", keep_models=True)
    data, order = runs.data, np.arange(len(runs.data.train))
    few = replace(data, division=Division(order, np.array([0, 1, len(order) - 1])))
    for number in (1, 2):
        rankings, model = cast(runs, few, number)
        assert np.array(rankings).min() == NO_RANKING and model is None
    assert cast(runs, few, 3)[1] is not None


def test_a_ranking_is_by_score_and_of_equal_ones_by_place_in_the_list() -> None:
    scores = np.array([[0.1, 0.5, 0.4], [0.4, 0.2, 0.4], [0.5, np.nan, 0.5], [np.inf, 0, 0]], np.float32)
    assert ballot_of(scores, ranked=True).tolist() == [[1, 2, 0], [0, 2, 1], [NO_RANKING] * 3, [NO_RANKING] * 3]
    assert ballot_of(scores, ranked=False).tolist() == [1, 0, -1, -1]


# ---------------------------------------------------------------------------------------------- what is certified


@pytest.fixture
def easy(tmp_path: Path) -> Path:
    """Two classes that are easy to tell apart, in 32 images and 4 to vote on; names differ from class to class."""
    for label, name in enumerate(("dark", "light")):
        for number in range(18):
            folder = tmp_path / "raw" / ("train" if number < 16 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng([label, number]).integers(-20, 21, (16, 16, 3))
            Image.fromarray((40 + 150 * label + draw).astype(np.uint8)).save(folder / f"{name}-{number}.png")
    return tmp_path / "raw"


def test_a_certificate_of_parts_from_end_to_end(easy: Path, tmp_path: Path, transparent: str) -> None:
    out = tmp_path / "out"
    told = certify(easy, out, denoiser=transparent, keep_models=True, **PARTS)
    certificate = json.loads((out / "certificate.json").read_text())
    terms = certificate["terms"]
    assert (terms["runs"], terms["alpha"], terms["bound"], terms["family"]) == (4, "0", "runoff", "all")
    assert terms["partitions"] == {"parts": 4, "by": "name"} and terms["sigma"] == "0"
    claimed = [point for point in certificate["points"] if point["class"] >= 0]
    assert claimed and told.certified == len(claimed) == verify(out).certified and told.images == 32
    for point in claimed:
        kept = point["images_inserted"]
        assert point["images_missing"] == point["images_changed_in_place"] == kept >= 1
        assert point["images_changed"] == kept // 2
    assert set(certificate["accuracy_by_images"]) == {
        "images_inserted", "images_changed", "images_missing", "images_changed_in_place",
    }  # fmt: skip
    assert certificate["accuracy"]["confidence"] == "0.975000" and certificate["accuracy"]["j"] == 0
    assert (out / "certified.tsv").read_text().splitlines()[0].endswith("images_missing\timages_changed_in_place")
    for image, point in zip(predict(out, easy / "test"), certificate["points"], strict=True):
        assert image.votes == point["k_a"] and image.predicted == (
            None if point["class"] < 0 else terms["classes"][point["class"]]
        )
        assert image.whole == {kind: point[kind] for kind in image.whole} and len(image.whole) == 4


def test_plurality_by_a_command_that_tells_only_the_first(raw: Path, tmp_path: Path, transparent: str) -> None:
    """A part may have no image of a class: its copy has all folders, and the command is told of all classes."""
    asked: dict[str, Any] = PARTS | {"recipe": None, "trainer": trainer_command(tmp_path, ALWAYS_RED)}
    told = certify(raw, tmp_path / "out", denoiser=transparent, election="plurality", **asked)
    votes = read_votes(tmp_path / "out" / "votes.safetensors")
    assert votes.rankings is None and told.certified == told.points
    points = json.loads((tmp_path / "out" / "certificate.json").read_text())["points"]
    assert {point["images_inserted"] for point in points} == {1}, "four votes, and of equal ones red goes last"
    verify(tmp_path / "out")


# the mean colour again, and scores by it for classes in an order of its own; none of one point
SCORED = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
data, test, out = map(Path, sys.argv[1:4])
def colour_of(path): return np.asarray(Image.open(path).convert("RGB"), float).mean((0, 1))
names = sorted((folder.name for folder in data.iterdir()), reverse=True)
nothing = np.full((1, 3), 1e3)
means = [np.mean([colour_of(p) for p in (data / name).iterdir()] or nothing, 0) for name in names]
scores = np.array([[-np.square(mean - colour_of(path)).sum() for mean in means] for path in sorted(test.iterdir())])
scores[2, 1] = np.nan
save_file({"scores": scores}, out / "scores.safetensors", {"class_names": json.dumps(names)})
"""


def test_a_run_off_by_the_scores_of_a_command(raw: Path, tmp_path: Path, transparent: str) -> None:
    asked: dict[str, Any] = PARTS | {"recipe": None, "trainer": trainer_command(tmp_path, SCORED)}
    told = certify(raw, tmp_path / "out", denoiser=transparent, **asked)
    votes = read_votes(tmp_path / "out" / "votes.safetensors")
    assert votes.rankings is not None and votes.rankings.shape == (4, 9, 3) and told.points == 9
    assert (votes.rankings[:, 2] == 0xFFFF).all() and (votes.votes[:, 2] == -1).all()  # a score that is none
    there = (votes.votes >= 0).any(axis=1)  # of six names in each class none falls into one part
    rest = np.delete(votes.rankings[there], 2, axis=1)
    assert told.failed == 1 == 4 - len(rest) and (np.sort(rest, axis=2) == np.arange(3)).all()
    assert votes.labels is not None and (votes.votes[there] == votes.labels).mean() > 0.5  # by the names of columns
    verify(tmp_path / "out")
    certify(raw, tmp_path / "first", denoiser=transparent, election="plurality", **asked)
    first = read_votes(tmp_path / "first" / "votes.safetensors")
    assert first.rankings is None and (first.votes[:, 2] == -1).all()
    assert (np.delete(first.votes[there], 2, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"partitions": 1}, "from 2"),
        ({"partitions": 40}, "most would have no image"),
        ({"runs": 1000}, "--runs"),
        ({"alpha": "0.001"}, "--alpha"),
        ({"bound": "union"}, "--bound"),
        ({"family": "all"}, "--family"),
        ({"subsample": "0.1"}, "--subsample"),
        ({"election": "borda"}, "election"),
        ({"partition_by": "size"}, "partition-by"),
        ({"partitions": None, "sigma": "0.25", "election": "runoff"}, "--partitions only"),
        ({"threat": "noised-test"}, "noised-test"),
        ({"limit": 26}, "--limit"),
        ({"holdout": 0.2}, "held out"),
    ],
)
def test_what_would_prove_nothing_is_refused(
    raw: Path, tmp_path: Path, transparent: str, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        certify(raw, tmp_path / "out", denoiser=transparent, **(PARTS | changed))
    assert said in str(refused.value)
