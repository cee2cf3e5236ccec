"""Certificates of runs that took a share of noised images: what is published is proved, and verify finds the rest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from dpclean.certificate.bounds import BOUNDS
from dpclean.certificate.certificate import build
from dpclean.certificate.files import Published, dump, tsv
from dpclean.certificate.limits import check_parameters
from dpclean.certificate.parameters import FormError, from_json
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import read_votes, votes_bytes
from dpclean.certificate.whole_images import WORD, Edits, kept_mean, numbers_of
from dpclean.errors import DifferenceError, UsageError
from tests.certificate.ballots import counted, hand_over, parameters, recorded, terms
from tests.certificate.test_whole_images import subsets

Json = dict[str, Any]
COLUMNS = ({0: 200}, {1: 190, 0: 6}, {2: 150, 1: 50}, {0: 100, 1: 100}, {}, {1: 185, 2: 15})
LABELS = [0, 1, 0, -1, 2, 1]


def made(**changed: Any) -> Any:
    asked = {"subsample": WORD // 50, "with_images": [1, 5], **changed}
    return counted(*COLUMNS, runs=200, labels=LABELS, **asked)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_over(tmp_path_factory.mktemp("original") / "certificate", made())


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "certificate"))


def read(folder: Path) -> Json:
    found: Json = json.loads((folder / "certificate.json").read_text())
    return found


def edited(folder: Path, change: Callable[[Json], object]) -> None:
    """certificate.json with a change; certified.tsv follows, so that it is not what gives the change away."""
    certificate = read(folder)
    change(certificate)
    (folder / "certificate.json").write_bytes(dump(certificate))
    with contextlib.suppress(KeyError):  # of a row that is beside other images than the terms say
        (folder / "certified.tsv").write_text(tsv(certificate))


@pytest.mark.parametrize("threat", ["clean-test", "noised-test"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_what_was_built_holds_and_only_what_training_images_do_is_amplified(
    tmp_path: Path, bound: str, threat: str
) -> None:
    folder = hand_over(tmp_path / "certificate", made(bound=bound, threat=threat))
    assert verify(folder).certified >= 3
    certificate = read(folder)
    with_all = build(counted(*COLUMNS, runs=200, labels=LABELS, bound=bound, threat=threat), "")
    plain = {point["index"]: Fraction(point["certified_radius"]) for point in with_all["points"]}
    sides = 2 if bound == "multiclass" else 1
    for point in certificate["points"]:
        radii = [Fraction(found["certified_radius"]) for found in (point, *point["with_images"])]
        assert radii == sorted(radii, reverse=True) and Fraction(certificate["summary"]["ceiling"]) >= radii[0]
        assert [found["images"] for found in point["with_images"]] == [1, 5]
        for found, radius in zip((point, *point["with_images"]), radii, strict=True):
            amplified = radius > 0 and threat == "clean-test"
            assert (found["witness"] is not None and len(found["witness"]) == sides) is amplified
        if threat == "noised-test":
            assert radii[0] == plain[point["index"]], "a test image is in every run"
        elif plain[point["index"]]:
            assert 6 * plain[point["index"]] < radii[0] < Fraction("7.1") * plain[point["index"]]  # sqrt(50)
    header, first = (folder / "certified.tsv").read_text().splitlines()[:2]
    columns = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    assert columns["radius_with_5_changed"] == certificate["points"][0]["with_images"][1]["certified_radius"]


def test_certified_accuracy_beside_changed_images(folder: Path) -> None:
    certificate = read(folder)
    right = [point for point in certificate["points"] if point["class"] == point["label"]]
    for place, table in enumerate(certificate["accuracy_with_images"]):
        for row in table["at"]:
            held = [point for point in right if point["images_changed"] >= table["images"]]
            radii = [Fraction(point["with_images"][place]["certified_radius"]) for point in held]
            assert row["certified"] == sum(radius >= Fraction(row["radius"]) for radius in radii)
            assert Fraction(row["lower"]) < Fraction(row["certified_accuracy"]) or row["certified"] == 0
        assert table["at"][0]["certified"] == len(held) > 0
    for table in certificate["accuracy_with_images"]:
        for row, beside_none in zip(table["at"], certificate["accuracy"]["at"], strict=True):
            assert row["certified"] <= beside_none["certified"]


def test_without_noise_or_labels_there_is_less_to_say() -> None:
    without = build(counted(*COLUMNS, runs=200, labels=LABELS, subsample=WORD // 50, sigma="0"), "")
    assert "witness" not in without["points"][0] and "accuracy_with_images" not in without
    unlabelled = build(counted(*COLUMNS, runs=200, subsample=WORD // 50, with_images=[3]), "")
    assert "accuracy_with_images" not in unlabelled and unlabelled["points"][0]["with_images"][0]["images"] == 3


def _first(certificate: Json) -> Json:
    point: Json = certificate["points"][0]
    return point


def _wider(proof: list[list[str]]) -> None:
    proof[0][1] = f"{float(proof[0][1]) + 0.3:.3g}"


def _narrower(proof: list[list[str]]) -> None:
    proof[0][1] = f"{float(proof[0][1]) - 0.3:.3g}"


FORGED: dict[str, tuple[Callable[[Json], object], str]] = {
    "another u": (lambda c: c["terms"].update(subsample=c["terms"]["subsample"] - 1), "subsample"),
    "a larger radius": (lambda c: _first(c).update(certified_radius="9.000000", budget=10**6), "certified_radius"),
    "a smaller radius": (lambda c: _first(c).update(certified_radius="0.100000"), "certified_radius"),
    "a wider witness": (lambda c: _wider(_first(c)["witness"]), "certified_radius"),
    "a witness that fails": (lambda c: _narrower(_first(c)["witness"]), "certified_radius"),
    "no witness": (lambda c: _first(c).update(witness=None), "certified_radius"),
    "a witness too many": (lambda c: _first(c)["witness"].append(["0", "1"]), "certified_radius"),
    "a witness too few": (lambda c: _first(c)["witness"].pop(), "certified_radius"),
    "a witness in other words": (lambda c: _first(c)["witness"][0].reverse(), "certified_radius"),
    "a witness spelled otherwise": (lambda c: _first(c).update(witness="golden"), "certified_radius"),
    "more images": (lambda c: _first(c).update(images_changed=_first(c)["images_changed"] + 1), "images_changed"),
    "fewer images": (lambda c: _first(c).update(images_missing=1), "images_missing"),
    "beside more images": (lambda c: _first(c)["with_images"][1].update(images=6), "images"),
    "a larger radius beside": (lambda c: _first(c)["with_images"][1].update(certified_radius="5.000000"), "radius"),
    "a row beside too many": (
        lambda c: _first(c)["with_images"].append({**_first(c)["with_images"][1], "images": 9}),
        "with_images",
    ),
    "accuracy by images": (lambda c: c["accuracy_by_images"]["images_changed"][1].update(certified=4), "certified"),
    "accuracy with images": (lambda c: c["accuracy_with_images"][0]["at"][1].update(lower="0.900000"), "lower"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED)
def test_what_was_forged_is_found(folder: Path, forgery: str) -> None:
    change, word = FORGED[forgery]
    edited(folder, change)
    with pytest.raises(DifferenceError, match=word):
        verify(folder)


def test_verify_searches_for_no_proof(folder: Path) -> None:
    """What no proof is published for is not amplified, and a weaker proof proves less: nothing is mended."""
    certificate, votes = read(folder), read_votes(folder / "votes.safetensors")
    none = build(votes, "", Published(None))
    assert all(point["witness"] is None for point in none["points"])
    assert 0 < Fraction(_first(none)["certified_radius"]) < Fraction(_first(certificate)["certified_radius"]) / 6
    _wider(_first(certificate)["witness"])
    weaker = build(votes, "", Published(certificate))
    assert _first(weaker)["witness"] == _first(certificate)["witness"]
    assert Fraction(_first(weaker)["certified_radius"]) < Fraction(_first(certificate)["certified_radius"])


@pytest.mark.parametrize("spoilt", [b"", b"[" * 10**5, b"\xff\xfe", b'{"points": 5}', b'{"points": [null, 3]}', b"[]"])
def test_a_certificate_of_another_form_is_a_difference(folder: Path, spoilt: bytes) -> None:
    (folder / "certificate.json").write_bytes(spoilt)
    with pytest.raises(DifferenceError):
        verify(folder)


def test_another_share_or_a_run_too_many_do_not_go_with_the_records(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    assert votes.records is not None
    doubled = replace(
        votes,
        votes=np.concatenate([votes.votes, votes.votes[:1]]),
        records=np.concatenate([votes.records, votes.records[:1]]),
    )
    for forged in (
        replace(votes, parameters=structs.replace(votes.parameters, subsample=WORD // 60)),
        doubled,
        replace(doubled, parameters=structs.replace(votes.parameters, runs=201)),
    ):
        data = votes_bytes(forged)
        (folder / "votes.safetensors").write_bytes(data)
        edited(folder, lambda c, data=data: c.update(votes_sha256=hashlib.sha256(data).hexdigest()))  # type: ignore[misc]
        with pytest.raises(DifferenceError, match="run"):
            verify(folder)


def test_the_share_is_the_issuers_word_where_all_else_is_made_anew(folder: Path, tmp_path: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    other = structs.replace(votes.parameters, subsample=WORD // 60)
    found = verify(hand_over(tmp_path / "other", recorded(replace(votes, parameters=other))))
    assert "subsample" in found.issuers_terms and any("share" in sentence for sentence in found.issuers_word)


@pytest.mark.parametrize(
    "changed",
    [
        {"subsample": None},
        {"sigma": "0"},
        {"with_images": [5, 1]},
        {"with_images": [1, 1]},
        {"with_images": [101]},
    ],
    ids=str,
)
def test_radii_beside_images_need_a_share_noise_and_so_many_images(changed: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"subsample": WORD // 50, "with_images": [1, 100]}
    check_parameters(parameters(200, 1, **asked))
    asked |= changed
    if asked["subsample"] is None:
        del asked["subsample"]
    with pytest.raises(UsageError, match="--with-images"):
        check_parameters(parameters(200, 1, **asked))


@pytest.mark.parametrize("name", ["subsample", "with_images", "dimensions"])
@pytest.mark.parametrize("value", [None, "5", 1.5, {}], ids=str)
def test_terms_that_do_not_apply_are_refused_in_plain_words(name: str, value: Any) -> None:
    for origin in ("external", "dpclean"):
        with pytest.raises(FormError) as refused:
            from_json(terms(100, 2, origin=origin, **{name: value}))
        assert "msgspec" not in str(refused.value) and name in str(refused.value)
    with pytest.raises(FormError, match="votes from elsewhere have no such term"):
        from_json(terms(100, 2, origin="external", partitions=value))


def test_numbers_of_images() -> None:
    assert numbers_of("5") == [5] and numbers_of("10, 1,5") == [1, 5, 10]
    for text in ("", "0", "1,1", "1,,2", "-1", "1.5", "many", str(WORD), ",".join(map(str, range(1, 30))), "٣"):
        with pytest.raises(UsageError):
            numbers_of(text)


# -- the accuracy of one model


def test_what_is_left_of_a_mean_is_never_more_than_there_is() -> None:
    """In small worlds, in exact fractions: whatever a run makes of its members; and the worst is reached."""
    rng = random.Random(8)
    reached = 0
    for _ in range(300):
        share = rng.choice((WORD // 8, WORD // 3, WORD // 2))
        q = Fraction(share, WORD)
        inserted, missing = rng.randint(0, 2), rng.randint(0, 2)
        here, there = ["a", *"IJ"[:inserted]], ["a", *"XY"[:missing]]
        worst = rng.random() < 0.5
        value = {members: Fraction(rng.randint(0, 4), 4) for members in subsets([*"aIJXY"])}
        if worst:  # what was touched is right here, and wrong there
            value |= {members: Fraction(1) for members in value if members & {*"IJ"}}
            value |= {members: Fraction(0) for members in value if members & {*"XY"}}

        def mean(images: list[str], q: Fraction = q, value: dict[frozenset[str], Fraction] = value) -> Fraction:
            weights = (q ** len(s) * (1 - q) ** (len(images) - len(s)) * value[s] for s in subsets(images))
            return sum(weights, Fraction(0))

        left = kept_mean(share, Edits(inserted, missing), 0, mean(here), Fraction(0), Fraction(0), ())
        assert left <= mean(there)
        reached += worst and left > 0 and mean(there) - left < Fraction(1, 10**60)
    assert reached > 50


def test_one_model_is_as_good_as_the_formulas_say(folder: Path) -> None:
    certificate = read(folder)
    one, q = certificate["accuracy_certificate"], Fraction(WORD // 50, WORD)
    mean = Fraction(one["mu_lower"])
    assert len(one["images"]) > 5 and one["images"][0]["changed"] == one["mu_lower"]
    for row in one["images"]:
        rho = (1 - q) ** row["images"]
        for kind, left in (
            ("inserted", (mean - 1 + rho) / rho),
            ("changed", mean - 1 + rho),
            ("missing", rho * mean),
        ):
            assert 0 <= max(Fraction(0), left) - Fraction(row[kind]) < Fraction(2, 10**6)
    radius = [(Fraction(row["distance"]), Fraction(row["accuracy"]), row["witness"]) for row in one["curve"]]
    assert [left for _, left, _ in radius] == sorted((left for _, left, _ in radius), reverse=True)
    normal, sigma = NormalDist(), 0.25
    for distance, left, witness in radius[1:]:
        best = normal.cdf(normal.inv_cdf(float(mean)) - float(q) ** 0.5 * float(distance) / sigma)
        assert best - 0.03 < float(left) <= best and (witness is None or len(witness) == 1)
    assert all(row["witness"] for row in one["curve"][1:20])
    for entry in (*one["per_class"], *one["attack"]):
        assert entry["images"][0]["images"] == 0 and len(entry["with_images"]) == 2
    taken = one["attack"][0]
    assert taken["images"][0]["changed"] == taken["mu_upper"] <= taken["images"][1]["changed"]
    beside = one["with_images"][1]
    assert beside["images"] == 5 and beside["curve"][0]["accuracy"] == one["images"][3]["changed"]


def test_without_noise_one_model_has_images_and_no_distances() -> None:
    one = build(counted(*COLUMNS, runs=200, labels=LABELS, subsample=WORD // 50, sigma="0"), "")["accuracy_certificate"]
    assert one["curve"] == [] and "with_images" not in one and len(one["images"]) > 5
    joint = build(made(threat="noised-test"), "")
    assert joint["accuracy_certificate"] is None and "test images" in joint["accuracy_certificate_absent"]


ONE_MODEL: dict[str, Callable[[Json], object]] = {
    "more after images": lambda one: one["images"][2].update(changed="0.900000"),
    "another number of images": lambda one: one["images"][2].update(images=9),
    "more at a distance": lambda one: one["curve"][4].update(accuracy="0.900000"),
    "a witness that fails": lambda one: _narrower(one["curve"][20]["witness"]),
    "a wider witness": lambda one: _wider(one["curve"][20]["witness"]),
    "no witness": lambda one: one["curve"][20].update(witness=None),
    "more beside images": lambda one: one["with_images"][0]["curve"][1].update(accuracy="0.900000"),
    "more of a class": lambda one: one["per_class"][0]["images"][1].update(inserted="0.990000"),
    "fewer taken": lambda one: one["attack"][0]["curve"][1].update(share="0.000001"),
}


@pytest.mark.parametrize("forgery", ONE_MODEL)
def test_what_was_forged_of_one_model_is_found(folder: Path, forgery: str) -> None:
    edited(folder, lambda certificate: ONE_MODEL[forgery](certificate["accuracy_certificate"]))
    with pytest.raises(DifferenceError, match="accuracy_certificate"):
        verify(folder)
