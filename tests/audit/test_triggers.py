"""Attacks with a trigger: poisons and trigger are what they claim; the poisoned victim obeys, its control does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.audit.attacks import find_attack, narcissus
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch, Pattern, chequered
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.experiment import Experiment, Foe
from dpclean.audit.trials import asked, draw_trigger_trials
from dpclean.audit.victims.scratch import Scratch
from dpclean.cli import run
from dpclean.data.dataset import Images, read_images
from dpclean.train.recipes import find_recipe

POISONS = 10


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return read_images(raw, workers=1)


@pytest.fixture(scope="module")
def test(test_images: Path) -> Images:
    return read_images(test_images, workers=1)


@pytest.fixture(scope="module")
def victim(data: Images) -> Scratch:
    return Scratch(find_recipe("tiny"), len(data.classes), 16, torch.device("cpu"))


def experiment_of(name: str, data: Images, test: Images, victim: Scratch) -> tuple[Experiment, Foe]:
    attack, eligible = find_attack(name), np.ones(len(test), bool)
    trials = draw_trigger_trials(
        data, test, eligible, relabels=attack.relabels, one_source=attack.one_source, count=1, poisons=POISONS, seed=3
    )
    experiment = Experiment(data, test, eligible, victim, trials, attack, eps=24, seed=1)
    foe = Foe(None, Surrogate(victim, data, seed=5), [Nothing()])
    experiment.prepare(foe.defences, lambda: None)
    return experiment, foe


@pytest.mark.parametrize("margin", [0, 2])
def test_a_patch_covers_its_corners_and_nothing_else(margin: int) -> None:
    image = np.full((16, 12, 3), 7, np.uint8)
    for everywhere, corners in ((False, 1), (True, 4)):
        found = Patch(chequered(3), margin, everywhere).on(image)
        assert (image == 7).all() and (found != 7).any(2).sum() == 9 * corners
        assert (found[13 - margin : 16 - margin, 9 - margin : 12 - margin] == chequered(3)).all()
    grey = Patch(chequered(3)).on(image[:, :, :1])
    assert grey.shape == (16, 12, 1) and (grey[-3:, -3:, 0] == chequered(3)[:, :, 0]).all()
    assert (Patch(chequered(3)).on(image[:2, :2]) == chequered(3)[:2, :2]).all()


def test_a_pattern_changes_each_pixel_value_by_its_own_number() -> None:
    change = np.array([[[-3, 0, 3], [200, -200, 1]]], np.int16)
    image = np.array([[[10, 10, 10], [100, 100, 254]]], np.uint8)
    assert Pattern(change).on(image).tolist() == [[[7, 10, 13], [255, 0, 255]]]


def test_trials_of_a_trigger_ask_about_other_classes(data: Images, test: Images) -> None:
    eligible = np.ones(len(test), bool)
    eligible[0] = False
    for relabels in (False, True):
        for one_source in (False, True):
            drawn = draw_trigger_trials(
                data, test, eligible, relabels=relabels, one_source=one_source, count=3, poisons=POISONS, seed=1
            )
            for trial in drawn:
                labels = data.labels[trial.bases]
                assert len(set(trial.bases)) == POISONS and ((labels == trial.poison_class) != relabels).all()
                classes = set(test.labels[asked(trial, test, eligible)].tolist())
                assert classes == ({trial.source_class} if one_source else {0, 1, 2} - {trial.poison_class})
                assert trial.poison_class != trial.source_class and 0 not in asked(trial, test, eligible)


def test_badnets_is_obeyed_by_what_learned_from_it_alone(data: Images, test: Images, victim: Scratch) -> None:
    experiment, foe = experiment_of("badnets", data, test, victim)
    trial = experiment.trials[0]
    crafted, crafting = experiment.crafted(1, trial, foe, lambda: None)
    assert crafted.trigger is not None and crafting.distance_after is None
    for place, poison in zip(trial.bases, crafted.pixels, strict=True):
        assert data.labels[place] != trial.poison_class
        assert (poison == crafted.trigger.on(data.pixels[place])).all() and (poison != data.pixels[place]).any()
    (verdict,) = experiment.verdicts(1, trial, foe, crafted, lambda: None)
    assert verdict.tried == 10 and verdict.skipped == 0
    assert verdict.succeeded >= 8 and verdict.control <= 2


def test_the_command_shows_triggers_with_their_controls(
    raw: Path, test_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], hasty: None
) -> None:
    out = tmp_path / "audit"
    given = ["--test", test_images, "--victim", "tiny", "--attack", "badnets", "--poisons", POISONS, "--targets", 1]
    given += ["--defence", "jpeg-75,deep-knn", "--threads", 1, "--workers", 1, "--device", "cpu", "--out", out]
    assert run(["audit", str(raw), *map(str, given), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["defence"], row["head"]) for row in rows] == [
        (name, "tiny") for name in ("none", "jpeg-75", "deep-knn")
    ]
    assert all(row["trials"] == 10 and row["distance_after"] is None for row in rows)
    assert rows[0]["succeeded"] > rows[0]["control"]
    folder = out / "poisons" / "0001"
    told: dict[str, Any] = json.loads((folder / "poisons.json").read_bytes())
    assert told["target"] is None and told["trigger"]["kind"] == "patch" and told["settings"]["recipe"] == "tiny"
    patch = np.load(folder / told["trigger"]["file"])
    for file in ("000.png", "example.png"):
        assert (np.array(Image.open(folder / file))[-3:, -3:] == patch).all()
    page = (out / "report.html").read_text("utf-8")
    assert "With the trigger" in page and "the patch, which replaces what it covers" in page
    given[given.index("--attack") + 1 :] = ["badnets", "--adaptive", "--out", out]
    assert run(["audit", str(raw), *map(str, given)]) == 2
    assert "follows no gradient" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "victim"),
    [
        ("hidden-trigger", "frozen"),
        ("label-consistent", "frozen"),
        ("narcissus", "tiny"),
    ],
)
def test_every_attack_is_a_command_away(
    name: str,
    victim: str,
    raw: Path,
    test_images: Path,
    model: Path,
    tmp_path: Path,
    hasty: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(narcissus, "STEPS", 20)
    given = ["--test", test_images, "--attack", name, "--poisons", 3, "--targets", 1, "--defence", "none"]
    given += ["--victim", victim, *(["--extractor", model] if victim == "frozen" else [])]
    given += ["--threads", 1, "--workers", 1, "--device", "cpu", "--quiet"]
    assert run(["audit", str(raw), *map(str, given), "--out", str(tmp_path / "audit")]) == 0
    told = json.loads((tmp_path / "audit" / "audit.json").read_bytes())
    asked = 5 if find_attack(name).one_source else 10
    assert told["attack"] == name and [row["trials"] for row in told["rows"]] == [asked] * len(told["rows"])


@pytest.mark.parametrize("name", ["gradient-matching", "sleeper-agent"])
def test_attacks_of_many_steps_look_ahead(
    name: str, raw: Path, test_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--test", test_images, "--attack", name, "--victim", "tiny", "--poisons", 3, "--targets", 2, "--dry-run"]
    given += ["--defence", "none", "--threads", 1, "--workers", 1, "--device", "cpu", "--json"]
    assert run(["audit", str(raw), *map(str, given), "--out", str(tmp_path / "audit")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["attack"] == name and told["poisons"] == 3 and told["seconds"] > 0
    assert not (tmp_path / "audit").exists()
