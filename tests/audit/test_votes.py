"""Votes beside an attack: they are those of `certify`, and what their certificates say holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpclean.audit.attacks import find_attack
from dpclean.audit.attacks.attack import Crafted
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.votes import OnParts, OnShares, Partitions, Subsample, VotingLearner
from dpclean.audit.experiment import Experiment, Foe, Verdict
from dpclean.audit.job import audit
from dpclean.audit.trials import Trial
from dpclean.audit.victims.frozen import Frozen
from dpclean.audit.victims.heads import Linear, Logistic
from dpclean.certificate.whole_images import word_of
from dpclean.certify import certify
from dpclean.data.dataset import Images, read_images
from dpclean.errors import InternalError, UsageError
from dpclean.noise.keys import key_from_seed
from dpclean.noise.membership import members
from dpclean.train.extractor import Extractor, find_extractor

PARTS, SHARE, RUNS, SEED = 15, "0.1", 100, 3


@pytest.fixture(scope="module")
def extractor(model: Path) -> Extractor:
    return find_extractor(str(model), device=torch.device("cpu"))


class Certifys(OnShares):
    """With the draws of a certificate."""

    def taken(self, number: int, seed: int) -> Any:
        return members(key_from_seed(seed, "certify"), number, self._share, len(self._images))


@pytest.mark.parametrize("kind", ["parts", "shares"])
def test_votes_and_claims_are_those_of_certify(
    kind: str, raw: Path, test_images: Path, model: Path, extractor: Extractor, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"partitions": PARTS}
    if kind == "shares":
        asked = {"subsample": SHARE, "runs": RUNS, "seed": SEED, "seed_chosen_after_data": True}
    certify(raw, tmp_path / "out", test=test_images, extractor=str(model), workers=1, device="cpu", **asked)
    points = json.loads((tmp_path / "out" / "certificate.json").read_bytes())["points"]
    data, test = read_images(raw, workers=1), read_images(test_images, workers=1)
    learner: VotingLearner = OnParts(data, PARTS)
    if kind == "shares":
        learner = Certifys(data, RUNS, word_of(SHARE), b"", Fraction("0.001"))
    learned = learner.fit(extractor.features(data.pixels), data.labels, 3, seed=SEED)
    rows = extractor.features(test.pixels)
    assert learned.predict(rows).tolist() == [point["class"] for point in points]
    claimed = [point.get("images_changed_in_place", point["images_changed"]) for point in points]
    assert learned.reach(rows).tolist() == claimed and max(claimed) > 0


def test_so_many_changed_images_never_change_an_answer(raw: Path, extractor: Extractor) -> None:
    """As many copies of a point, of another class, as its claim allows for; by parts, which leave nothing to chance."""
    data, random = read_images(raw, workers=1), np.random.default_rng(0)
    rows = extractor.features(data.pixels)
    before = OnParts(data, PARTS).fit(rows, data.labels, 3)
    classes, reach = before.predict(rows), before.reach(rows)
    assert reach.max() >= 2
    for point in np.argsort(-reach)[:8].tolist():
        changed, labels = rows.copy(), data.labels.copy()
        places = random.choice(len(rows), int(reach[point]), replace=False)
        other = (classes[point] + 1) % 3
        changed[places], labels[places] = rows[point], other
        after = OnParts(data, PARTS).fit(changed, labels, 3).predict(rows[[point]])
        assert after[0] in (classes[point], -1)


class Liar(Linear):
    def reach(self, points: Any) -> Any:
        return np.full(len(points), 10**6)


class Lying(Nothing):
    name = "lying"

    def learners(self, images: Images) -> Sequence[Any]:
        class Learner(Logistic):
            def fit(self, *given: Any, **more: Any) -> Linear:
                return Liar(**vars(super().fit(*given, **more)))

        return [Learner()]


def tried(defence: Defence, raw: Path, test_images: Path, extractor: Extractor) -> list[Verdict]:
    """What copies of the target in the place of all images of another class do."""
    data, test = read_images(raw, workers=1), read_images(test_images, workers=1)
    target = test.names.index("red/002.png")
    trial = Trial(target, 0, np.flatnonzero(data.labels == 0).tolist())
    victim = Frozen(extractor)
    eligible = np.ones(len(test), np.bool_)
    experiment = Experiment(data, test, eligible, victim, [trial], find_attack("bullseye-polytope"), eps=16)
    experiment.prepare([defence], lambda: None)
    copies = Crafted([test.pixels[target]] * len(trial.bases))
    return experiment.verdicts(1, trial, Foe(None, Surrogate(victim, data), [defence]), copies, lambda: None)


def test_a_claim_that_an_attack_breaks_stops_the_audit(raw: Path, test_images: Path, extractor: Extractor) -> None:
    with pytest.raises(InternalError, match="lying, trial 1: poisons changed an answer"):
        tried(Lying(), raw, test_images, extractor)


def test_a_large_attack_is_covered_by_no_certificate(raw: Path, test_images: Path, extractor: Extractor) -> None:
    setting = Setting([], "", "", "cpu", bytes(32), 15, 1)
    for defence in (Partitions(str(PARTS)), *Subsample.made(setting, f"{SHARE}:{RUNS}")):
        (verdict,) = tried(defence, raw, test_images, extractor)
        assert verdict.reach is not None and all(0 <= reach < 15 for reach in verdict.reach)
        assert verdict.control_accuracy > 0.5


def test_the_certificate_stands_beside_the_attack(raw: Path, test_images: Path, model: Path, tmp_path: Path) -> None:
    told = audit(
        raw, tmp_path / "audit", extractor=model, test=test_images, eps=24, poisons=2, targets=2, threads=1, workers=1,
        device="cpu", defence=f"partitions:{PARTS},subsample:{SHARE}:{RUNS}",
    )  # fmt: skip
    rows = {(row["defence"], row["head"]): row for row in told.rows}
    assert {head for _, head in rows} == {"logistic", "sgd", f"{PARTS} x ridge", f"{RUNS} x ridge"}
    parts = rows[f"partitions:{PARTS}", f"{PARTS} x ridge"]
    assert 0 < parts["covered"] <= 2 - parts["skipped"] and parts["reach"] >= 2
    assert parts["succeeded"] <= 2 - parts["skipped"] - parts["covered"]
    assert rows["none", "sgd"]["covered"] is None
    page = (tmp_path / "audit" / "report.html").read_text("utf-8")
    assert "The attack changes 2 images" in page and "proved for" in page
    assert f"(proved for {parts['covered']} of them)" in told.headline


def test_what_votes_do_not_take(raw: Path, test_images: Path, tmp_path: Path) -> None:
    for defence, words in (
        ("partitions:1", "a number of models from 2"),
        ("partitions", "a number of models"),
        ("subsample:2:10", "subsample is the share"),
        ("subsample:0.1:-3", "a number of models from 1"),
        ("jpeg-75:3", "takes nothing"),
    ):
        with pytest.raises(UsageError, match=words):
            audit(raw, tmp_path / "no", test=test_images, extractor="x", defence=defence)
    with pytest.raises(UsageError, match="is of heads on frozen features"):
        audit(raw, tmp_path / "no", test=test_images, victim="tiny", attack="badnets", defence="partitions:5")
