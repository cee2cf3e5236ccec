"""`dpclean train` and `dpclean predict`: what a model folder holds, killed and resumed, found complete."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpclean.classifier_training import job
from dpclean.cli import run
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.data.dataset import pixel_hashes, read_images
from dpclean.errors import ConflictError, InputError, Interrupted
from dpclean.train.images import prepare
from dpclean.train.model import read_model
from dpclean.train.trainer import Trainer
from tests.classifier_training.commands import SHORT, same_weights, told, train
from tests.damage import refused_until_deleted
from tests.kills import killed_again_and_again
from tests.train.pictures import CLASSES


def test_a_model_folder_says_what_it_was_made_of(material: Path, model: Path) -> None:
    manifest = manifests.read(material / "clean")
    description = told(model)
    assert manifest is not None and description.accuracy is not None
    assert description.classes == list(CLASSES) and description.recipe.name == SHORT and description.size == 24
    assert description.data.sigma == 0.1 and description.data.raw_pixel_digests == [manifest.raw.pixel_digest]
    assert description.data.images_by_class == {"blue": 15, "green": 15, "red": 15}
    assert description.certifiable and description.not_certifiable == []
    assert (description.accuracy.images, description.accuracy.source) == (30, "test")
    assert description.accuracy.correct >= 27
    assert sum(c.correct for c in description.accuracy.per_class) == description.accuracy.correct
    of_clean, of_model = (read_ancestry(folder / "dpclean.ancestry") for folder in (material / "clean", model))
    clean = Ancestry.of(pixel_hashes(read_images(material / "clean", workers=1)))
    assert of_model.dump() == (of_clean | clean).dump()
    rows = (model / "training.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:2] == ["epoch", "loss"] and len(rows) == 61
    assert "<svg" in (model / "training.svg").read_text()
    assert sorted(p.name for p in model.iterdir() if p.suffix == ".pt") == []


def test_accuracy_is_that_of_the_saved_weights(material: Path, model: Path) -> None:
    test = read_images(material / "test", workers=1)
    predicted = read_model(model).trainer(torch.device("cpu")).predict(prepare(test.pixels, 24)).numpy()
    accuracy = told(model).accuracy
    assert accuracy is not None and int((predicted == test.labels).sum()) == accuracy.correct


def test_the_same_command_again_finds_it_complete_and_another_is_refused(material: Path, model: Path) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert train(material / "clean", model, test=material / "test").already_complete
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConflictError, match="seed"):
        train(material / "clean", model, test=material / "test", seed=5)
    with pytest.raises(ConflictError, match="epochs"):
        train(material / "clean", model, test=material / "test", recipe="resnet18@24")


def test_the_same_seed_gives_the_same_weights_and_overwrite_replaces(material: Path, model: Path) -> None:
    out = material / "again"
    train(material / "clean", out, seed=3)
    assert not same_weights(model, out)
    train(material / "clean", out, overwrite=True)
    assert same_weights(model, out)


KILLED = """
import os, signal, sys
from pathlib import Path
from dpclean.classifier_training import job
write, count = job._write_checkpoint, 0
def write_and_die(path, state):
    global count
    write(path, state)
    count += 1
    if count == 20:
        os.kill(os.getpid(), signal.{signal})
job._write_checkpoint, job.CHECKPOINT_SECONDS = write_and_die, 0.0
job.train(Path(sys.argv[1]), Path(sys.argv[2]), recipe="{recipe}", device="cpu", workers=1, threads=1)
"""


def test_a_killed_training_goes_on_to_the_same_weights(
    material: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    program = KILLED.format(signal="SIGKILL", recipe=SHORT)
    command = [sys.executable, "-c", program, str(material / "clean"), str(out)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    begun = job._read_checkpoint(tmp_path / ".model.dpclean" / "work" / job.CHECKPOINT_NAME, torch.device("cpu"))
    assert not out.exists() and begun["done"] == 20
    with pytest.raises(ConflictError, match="seed"):
        train(material / "clean", out, seed=2)
    steps: list[int] = []
    train(material / "clean", out, progress=lambda step: steps.append(step.finished))
    assert steps[0] == 21
    assert same_weights(model, out) and len((out / "training.tsv").read_text().splitlines()) == 61
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_killed_at_every_stage_the_same_command_makes_the_same_model(material: Path, tmp_path: Path) -> None:
    killed_again_and_again(
        tmp_path,
        "from dpclean.jobs import job as jobs, staging\nfrom dpclean.classifier_training import job\n"
        "job.CHECKPOINT_SECONDS = 0\nfrom dataclasses import replace\nfrom dpclean.train import recipes\n"
        "recipes.RECIPES = {'tiny': replace(recipes.RECIPES['tiny'], least_steps=20)}",
        f"job.train({str(material / 'clean')!r}, out, recipe='tiny@16', device='cpu', workers=1, threads=1, seed=1)",
        ["jobs, write_record, 1", "job, _write_checkpoint, 10", "job, write_outputs, 1", "staging, sync_folder, 1"],
        clocked="training.tsv",
    )


def test_the_first_interrupt_saves_and_the_same_command_goes_on(material: Path, model: Path, tmp_path: Path) -> None:
    def interrupt(step: Any) -> None:
        if step.finished == 7:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "model"
    with pytest.raises(Interrupted, match="7 of 60"):
        train(material / "clean", out, progress=interrupt)
    steps: list[int] = []
    train(material / "clean", out, progress=lambda step: steps.append(step.finished))
    assert steps[0] == 8 and same_weights(model, out)


def test_a_damaged_checkpoint_is_named_and_what_it_held_is_done_again(
    material: Path, model: Path, tmp_path: Path
) -> None:
    def interrupt(step: Any) -> None:
        if step.finished == 7:
            signal.raise_signal(signal.SIGINT)

    out, checkpoint = tmp_path / "model", tmp_path / ".model.dpclean" / "work" / job.CHECKPOINT_NAME
    with pytest.raises(Interrupted):
        train(material / "clean", out, progress=interrupt)
    refused_until_deleted(checkpoint, lambda: train(material / "clean", out))
    train(material / "clean", out)
    assert same_weights(model, out)


def test_a_killed_warm_start_goes_on_to_the_same_weights(material: Path, tmp_path: Path) -> None:
    def stop_at(wanted: int) -> Any:
        seen = 0

        def interrupt(step: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == wanted:
                signal.raise_signal(signal.SIGINT)

        return interrupt

    options = {"warm_start": material / "raw", "warm_epochs": 5}
    train(material / "clean", tmp_path / "whole", **options)
    for wanted in (3, 30):  # on the raw data, then on the sanitized
        with pytest.raises(Interrupted):
            train(material / "clean", tmp_path / "broken", progress=stop_at(wanted), **options)
    train(material / "clean", tmp_path / "broken", **options)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_the_command_line_from_plan_to_predictions(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    command = ["train", str(material / "clean"), "--test", str(material / "test"), "--out", str(out)]
    command += ["--recipe", SHORT, "--workers", "1", "--device", "cpu", "--quiet"]
    assert run([*command, "--dry-run"]) == 0
    assert "60 steps" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    assert run([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "train" and result["accuracy"] >= 0.9 and result["recipe"]["name"] == SHORT
    assert run(command) == 0
    said = capsys.readouterr()
    assert said.out == "" and all(line.startswith("dpclean: note: ") for line in said.err.splitlines())
    assert run([*command, "--seed", "4"]) == run([*command, "--seed", "4", "--dry-run"]) == 5
    capsys.readouterr()
    assert run(["predict", str(out), str(material / "test"), "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name\tclass\tprobability" and len(lines) == 31
    right = [line.split("\t")[0].startswith(line.split("\t")[1] + "/") for line in lines[1:]]
    assert sum(right) == round(result["accuracy"] * 30)
    images = shutil.copytree(material / "test", tmp_path / "images")
    (images / "blue" / "broken.png").touch()
    assert run(["predict", str(out), str(images), "--workers", "1"]) == 0
    assert "left out: 1 (1 empty: 'blue/broken.png')" in capsys.readouterr().err
    assert run(["predict", str(out), str(images), "--workers", "1", "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert len(predicted["predictions"]) == 30 and predicted["predictions"][0]["name"].startswith("blue/")
    assert predicted["quarantined"] == {"empty": 1} and "blue/broken.png" in predicted["warnings"][0]


def test_predict_refuses_what_is_no_model(material: Path, model: Path, tmp_path: Path) -> None:
    assert run(["predict", str(material / "raw"), str(material / "test")]) == 3
    broken = shutil.copytree(model, tmp_path / "broken")
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="is not the file"):
        read_model(broken)
    (broken / "model.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="describes no model"):
        read_model(broken)
    (broken / "model.json").write_text('{"format": 99, "tool": "dpclean 9"}')
    with pytest.raises(ConflictError, match="format 99"):
        read_model(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 10**6}, "describes no model"),
        ({"size": 0}, "describes no model"),
        ({"size": 24}, "its size is 24, that of its recipe 32"),
        ({"classes": []}, "describes no model"),
        ({"classes": ["blue"] * 3}, "it has a class twice"),
        ({"classes": [f"class-{number}" for number in range(99_999)]}, "weights that do not fit the network"),
        ({"recipe": {"widths": [30_000] * 3}}, "describes no model"),
        ({"recipe": {"widths": [1024] * 3}}, "weights that do not fit the network"),
        ({"recipe": {"widths": [16, -1, 64]}}, "describes no model"),
        ({"recipe": {"widths": []}}, "has no widths"),
        ({"recipe": {"network": "x"}}, "the network 'x' is not known"),
        ({"recipe": {"network": "torchvision:raft_large"}}, "is not known"),
        ({"recipe": {"network": "torchvision:vgg19"}}, "weights that do not fit the network"),
        ({"recipe": {"predict_batch": -1}}, "describes no model"),
        ({"recipe": {"predict_batch": 10**8}}, "describes no model"),
        ({"recipe": {"precision": "x"}}, "describes no model"),
        ({"recipe": {"std": [0.0, 0.25, 0.25]}}, "describes no model"),
        ({"recipe": {"std": [1e-300] * 3}}, "describes no model"),
        ({"recipe": {"mean": [1e300] * 3}}, "describes no model"),
    ],
)
def test_a_forged_description_is_refused_before_it_takes_memory(
    model: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    forged = shutil.copytree(model, tmp_path / "forged")
    told = json.loads((forged / "model.json").read_bytes())
    recipe = {**told["recipe"], "size": 32, **change.pop("recipe", {})}
    (forged / "model.json").write_text(json.dumps({**told, "size": 32, "recipe": recipe, **change}))
    with pytest.raises(InputError, match=words):
        read_model(forged)


def test_batches_of_images_that_no_machine_holds_are_refused(model: Path) -> None:
    told = read_model(model).description
    with pytest.raises(InputError, match="images of 4000 x 4000 are too large for batches of 32"):
        Trainer(told.recipe, len(told.classes), size=4000, device=torch.device("cpu"))
