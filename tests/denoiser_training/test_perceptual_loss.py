"""The perceptual loss: what it measures, and what a fit with it carries on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision import models

from dpclean.cli import run
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.denoiser_training import initial_network
from dpclean.denoiser_training.fit import fit
from dpclean.denoiser_training.patches import read_patches
from dpclean.denoiser_training.perceptual_loss import Perceptual
from dpclean.denoiser_training.training import LARGE_EVERY, PERCEPTUAL_WEIGHT, Recipe, Training
from dpclean.errors import ConflictError, InputError
from dpclean.train.model import Classifier, read_model
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Trainer
from tests.networks import SMALL
from tests.train.pictures import make_folder

CPU = torch.device("cpu")


def classifier_of(network: nn.Module, size: int = 32) -> Classifier:
    half = torch.full((1, 3, 1, 1), 127.5)
    return Classifier("random", network, size, half, half, "0" * 64, None)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return classifier_of(Trainer(find_recipe("tiny"), 4, size=32, device=CPU).network)


@pytest.fixture
def clean() -> torch.Tensor:
    """float32 [4, 3, 32, 32] in [-1, 1]: smooth, and different."""
    coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(-1, 1)


def noisy(clean: torch.Tensor, sigma: float) -> torch.Tensor:
    return clean + 2 * sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))


def test_more_noise_is_farther_and_nothing_is_nearer_than_the_image_itself(
    classifier: Classifier, clean: torch.Tensor
) -> None:
    measure = Perceptual(classifier, CPU)
    itself, *farther = (float(measure.distance(noisy(clean, s), clean)) for s in (0.0, 0.02, 0.1, 0.5))
    assert [itself, *farther] == sorted([itself, *farther])
    assert farther[0] - itself > 1


def test_its_gradient_leads_to_the_image(classifier: Classifier, clean: torch.Tensor) -> None:
    measure, found = Perceptual(classifier, CPU), noisy(clean, 0.2).requires_grad_()
    before = measure.distance(found, clean)
    before.backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    with torch.no_grad():
        step = found.grad / found.grad.norm()
        assert measure.distance(found - 0.5 * step, clean) < before < measure.distance(found + 0.5 * step, clean)
    assert all(not parameter.requires_grad for parameter in classifier.network.parameters())


def test_each_image_counts_by_itself_and_alike(classifier: Classifier, clean: torch.Tensor) -> None:
    measure, found = Perceptual(classifier, CPU), noisy(clean, 0.1)
    whole = float(measure.distance(found, clean))
    alone = [float(measure.distance(found[i : i + 1], clean[i : i + 1])) for i in range(len(clean))]
    assert whole == pytest.approx(np.mean(alone), abs=0.02)  # bfloat16


@pytest.mark.parametrize(
    ("make", "resolutions"), [(models.resnet18, [16, 8, 4, 2]), (models.mobilenet_v2, [32, 16, 8, 4, 2])]
)
def test_networks_of_torchvision_have_features_too(make: Any, resolutions: list[int], clean: torch.Tensor) -> None:
    measure = Perceptual(classifier_of(make(num_classes=4), size=64), CPU)
    assert [feature.shape[2] for feature in measure._features(clean)] == resolutions
    assert measure.distance(noisy(clean, 0.2), clean) > measure.distance(clean, clean)


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(InputError, match="no convolutional features"):
        Perceptual(classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))), CPU)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("trusted"), 24, seed=5)


@pytest.fixture(scope="module")
def model(trusted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    assert run(["train", str(trusted), "--recipe", "tiny@32", "--out", str(out), "--quiet", "--workers=1"]) == 0
    return out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fitted is a small network."""
    monkeypatch.setattr(initial_network, "NETWORK", SMALL)


@pytest.fixture
def smooth(clean: torch.Tensor, tmp_path: Path) -> Path:
    """A folder of the clean images."""
    folder = tmp_path / "smooth"
    folder.mkdir()
    for number, image in enumerate(((clean + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.mark.usefixtures("small")
def test_its_share_of_the_loss_is_learnt(classifier: Classifier, smooth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "loss", lambda self, found, wanted, abar: 0 * found.sum())  # the other share
    patches = read_patches([smooth], seed=0, workers=1)
    training = initial_network.Start.of(None).training(patches, Recipe(200, 8, 3e-3, 0), CPU, classifier)
    before = [float(training.step()) for _ in range(8)]
    while training.done < 120:
        training.step()
    training.done = 0  # the same images and noise again
    after = [float(training.step()) for _ in range(8)]
    assert sum(later < earlier for earlier, later in zip(before[1:], after[1:], strict=True)) >= 6
    assert np.mean(after) < np.mean(before) - PERCEPTUAL_WEIGHT * np.log(1.5)


@pytest.mark.usefixtures("small")
def test_the_card_names_the_classifier(trusted: Path, model: Path, tmp_path: Path) -> None:
    known = read_model(model).classifier()
    for name, classifier in (("plain", None), ("seeing", known)):
        fit([trusted], tmp_path / name, classifier=classifier, steps=1, batch_size=4, workers=1)
    assert known.weights_sha256 in (tmp_path / "seeing" / "README.md").read_text()
    assert "classifier" not in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.usefixtures("small")
def test_patches_larger_than_what_the_classifier_knows_teach_by_squared_error_alone(
    classifier: Classifier, tmp_path: Path
) -> None:
    patches = read_patches([make_folder(tmp_path, 8, size=64)], seed=0, workers=1)

    def loss(step: int, classifier: Classifier | None) -> float:
        training = initial_network.Start.of(None).training(patches, Recipe(8, 4, 1e-3, 0), CPU, classifier)
        training.done = step
        return training.step()

    assert loss(LARGE_EVERY - 1, classifier) == loss(LARGE_EVERY - 1, None)
    assert loss(0, classifier) != loss(0, None)


@pytest.mark.usefixtures("small")
def test_the_command_takes_a_model_and_goes_on_with_no_other(
    trusted: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["denoiser", "fit", str(trusted), "--out", str(tmp_path / "d"), "--steps=2", "--batch-size=8"]
    command += ["--quiet", "--workers=1", "--json"]
    assert run([*command, "--classifier", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert run([*command, "--classifier", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["already_complete"]
    assert run(command) == ConflictError.exit
    assert "asks for classifier none" in capsys.readouterr().out
    assert run([*command, "--classifier", str(trusted)]) == InputError.exit
    assert "holds no model" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_what_the_classifier_saw_is_in_the_ancestry(trusted: Path, model: Path, tmp_path: Path) -> None:
    others = make_folder(tmp_path / "others", 12, seed=6)
    known = read_model(model).classifier()
    for name, classifier in (("known", known), ("unknown", replace(known, ancestry=Ancestry.unknown("x")))):
        fit([others], tmp_path / name, classifier=classifier, steps=1, batch_size=4, workers=1)
    seen = read_ancestry(tmp_path / "known" / "dpclean.ancestry")
    of_model = read_ancestry(model / "dpclean.ancestry")
    assert seen.shared_images(of_model) == len(of_model.images) == 24 and len(seen.images) == 24 + 12
    assert of_model.raw_pixel_digests < seen.raw_pixel_digests and seen.complete
    partly = read_ancestry(tmp_path / "unknown" / "dpclean.ancestry")
    assert len(partly.images) == 12 and partly.because() == "x"
