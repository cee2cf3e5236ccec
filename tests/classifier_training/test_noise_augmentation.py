"""`train --sigma-augment`: images noised and denoised anew in every epoch, and what is said of the model."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.certify import certify
from dpclean.certify.options import CertifyOptions
from dpclean.classifier_training import job
from dpclean.classifier_training.noise_augmentation import NoiseAugmentation
from dpclean.cli import run
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.data.dataset import pixel_hashes, read_images
from dpclean.data.digest import pixel_sha256
from dpclean.denoise.denoiser import Denoised, Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import ConflictError, InputError, Interrupted, UsageError
from dpclean.jobs.checks import options_of
from dpclean.noise.keys import key_from_seed
from dpclean.train.images import prepare
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Trainer
from tests.classifier_training.commands import SHORT, same_weights, told, train
from tests.networks import make_denoiser, make_transparent
from tests.train.pictures import make_folder, tensors


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_transparent(tmp_path_factory.mktemp("augmentation") / "denoiser"))


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 plain images: three steps an epoch, twenty epochs."""
    return make_folder(tmp_path_factory.mktemp("trusted") / "trusted", 150)


def test_an_epochs_images_are_what_the_denoiser_makes_of_them_with_the_noise_of_that_run(tmp_path: Path) -> None:
    """Of several sizes, which come back in other batches than they went in, and one that cannot be read."""
    folder = make_folder(tmp_path / "images", 12)
    (folder / "red" / "000.png").write_text("no image")
    Image.fromarray(np.full((40, 24), 90, np.uint8)).save(folder / "blue" / "high.png")
    images = read_images(folder, workers=1)
    files = find_denoiser(str(make_denoiser(tmp_path / "d")))
    made = NoiseAugmentation(files, 0.25, "ddim:2", seed=7, device="cpu", batch_pixels=4096)
    plain = Denoiser(files, 0.25, device="cpu", method="ddim:2", batch_pixels=4096)
    pairs = list(zip(images.indices.tolist(), images.pixels, strict=True))
    for epoch, test in ((1, False), (3, False), (0, True)):
        found = plain.denoise(pairs, key=key_from_seed(7, "train"), run=epoch, test=test)
        pixels = {result.index: result.pixels for result in found}
        expected = prepare([pixels[index] for index in images.indices.tolist()], 24)
        assert torch.equal(made.images(images, 24, epoch=epoch, test=test), expected)
    assert not torch.equal(made.images(images, 24, epoch=1), made.images(images, 24, epoch=2))


def test_what_has_no_finite_prediction_is_grey(tmp_path: Path, denoiser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at test time, where no image may be left out."""

    def broken(self: Denoiser, images: Any, **_: Any) -> Any:
        return (Denoised(i, np.zeros_like(p), retried=True, finite=i > 0) for i, p in images)

    monkeypatch.setattr(Denoiser, "denoise", broken)
    made = NoiseAugmentation(find_denoiser(denoiser), 0.25, "one-step", seed=0, device="cpu", batch_pixels=1024)
    found = made.images(read_images(make_folder(tmp_path / "images", 6), workers=1), None, epoch=1)
    assert found[0].unique().tolist() == [128] and found[1:].unique().tolist() == [0]


@pytest.mark.parametrize("stop", [None, 3, 4])
def test_a_fit_asks_for_the_images_of_each_epoch_once(stop: int | None) -> None:
    """Two steps an epoch; it goes on in the middle of one and at the beginning of one."""
    images, labels = tensors(100)
    recipe = replace(find_recipe("tiny"), epochs=5, least_steps=0)
    asked = list[int]()

    def of_epoch(epoch: int) -> torch.Tensor:
        asked.append(epoch)
        return (images + epoch).to(torch.uint8)

    class Stop(Exception):
        pass

    saved: dict[str, Any] = {}

    def on_step(done: int, steps: int) -> None:
        if done == stop:
            saved.update(copy.deepcopy(trainer.checkpoint()))
            raise Stop

    trainer = Trainer(recipe, 2, size=24, device=torch.device("cpu"))
    trainer.fit(of_epoch, labels, seed=1)
    whole = trainer.state_dict()
    assert asked == list(range(1, 6))
    trainer.fit(images, labels, seed=1)
    assert any(not torch.equal(whole[name], tensor) for name, tensor in trainer.state_dict().items())
    trainer.fit(lambda epoch: images.clone(), labels, seed=1)
    same = trainer.state_dict()
    trainer.fit(images, labels, seed=1)
    assert all(torch.equal(same[name], tensor) for name, tensor in trainer.state_dict().items())
    if stop is not None:
        asked.clear()
        with pytest.raises(Stop):
            trainer.fit(of_epoch, labels, seed=1, on_step=on_step)
        assert asked == [1, 2]
        asked.clear()
        trainer.fit(of_epoch, labels, seed=1, resume=saved)
        assert asked == list(range(2 if stop == 3 else 3, 6))
        assert all(torch.equal(whole[name], tensor) for name, tensor in trainer.state_dict().items())


def test_the_model_says_what_its_images_went_through(
    tmp_path: Path, trusted: Path, model: Path, denoiser: str, capsys: pytest.CaptureFixture[str], hasty: None
) -> None:
    """Plain images serve, and no certificate against poisoning may rest on it; other models say nothing of it."""
    test = make_folder(tmp_path / "test", 30, seed=9)
    fitted_on = Ancestry.of([pixel_sha256(np.zeros((9, 9, 3), np.uint8)), pixel_hashes(read_images(test))[4]])
    fitted = Path(shutil.copytree(denoiser, tmp_path / "fitted"))
    (fitted / "dpclean.ancestry").write_bytes(fitted_on.dump())
    options: dict[str, Any] = {"sigma_augment": 0.1, "denoiser": str(fitted), "method": "ddim:2", "test": test}
    result = train(trusted, tmp_path / "model", **options)
    assert result.sigma_augment == 0.1 and result.accuracy_denoised is not None and result.accuracy_denoised > 0.9
    said = told(tmp_path / "model").sigma_augment
    assert said is not None and (said.sigma, said.denoiser, said.method) == (0.1, str(fitted), "ddim:2")
    assert (
        said.denoiser_digests == find_denoiser(str(fitted)).digests() and said.correct == 30 * result.accuracy_denoised
    )
    description = told(tmp_path / "model")
    assert not description.certifiable and any("--sigma-augment" in text for text in description.not_certifiable)
    assert any("--sigma-augment" in text for text in result.warnings)
    assert read_ancestry(tmp_path / "model" / "dpclean.ancestry").shared_images(fitted_on) == 2
    assert description.accuracy is not None and description.accuracy.shared == 1
    assert "sigma_augment" not in json.loads((model / "model.json").read_text())
    assert train(trusted, tmp_path / "model", **options).already_complete
    command = ["train", str(trusted), "--out", str(tmp_path / "model"), "--recipe", SHORT, "--sigma-augment", "0.1"]
    assert run([*command, "--denoiser", str(fitted), "--method", "ddim:2", "--test", str(test), "--workers=1"]) == 0
    assert "dpclean sanitize IMAGES --sigma 0.1" in capsys.readouterr().out
    for other in ({"sigma_augment": 0.2}, {"method": None}, {"sigma_augment": None, "denoiser": None, "method": None}):
        with pytest.raises(ConflictError, match="was made with"):
            train(trusted, tmp_path / "model", **{**options, **other})


def test_it_goes_on_to_the_same_weights(tmp_path: Path, trusted: Path, denoiser: str, hasty: None) -> None:
    """Stopped in the middle of an epoch, and while the images of one are noised."""
    options: dict[str, Any] = {"sigma_augment": 0.25, "denoiser": denoiser, "seed": 4}
    train(trusted, tmp_path / "whole", **options)
    seen = list[tuple[str, str, int]]()

    def stop_at(unit: str, detail: str, finished: int | None) -> Any:
        def interrupt(step: Any) -> None:
            seen.append((step.unit, step.detail, step.finished))
            if step.unit == unit and step.detail.endswith(detail) and finished in (None, step.finished):
                signal.raise_signal(signal.SIGINT)

        return interrupt

    for place in (("images", "epoch 1", None), ("steps", "", 7), ("images", "epoch 5", None)):
        with pytest.raises(Interrupted):
            train(trusted, tmp_path / "broken", progress=stop_at(*place), **options)
    seen.clear()
    train(trusted, tmp_path / "broken", progress=stop_at("never", "", 0), **options)
    assert [row for row in seen if row[0] == "steps"][0][2] == 13 and seen[0][1].endswith("epoch 5")
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_a_certificate_never_rests_on_it(tmp_path: Path, material: Path, denoiser: str, hasty: None) -> None:
    """Neither as weights that runs begin from, though the images were sanitized, nor as an option of the runs."""
    result = train(material / "clean", tmp_path / "model", sigma_augment=0.1, denoiser=denoiser)
    assert not result.certifiable and any("sanitized already" in text for text in result.warnings)
    with pytest.raises(InputError, match="not certifiable: the images were noised anew"):
        certify(
            material / "raw", tmp_path / "c", test=material / "test", sigma=0.1, runs=2, init=str(tmp_path / "model"),
            denoiser=denoiser, device="cpu", workers=1,
        )  # fmt: skip
    with pytest.raises(UsageError, match="no option 'sigma_augment'"):
        options_of(CertifyOptions, "certify", {"sigma_augment": 0.1})
    command = ["certify", str(material / "clean"), "--out", str(tmp_path / "c"), "--sigma-augment", "0.1"]
    assert run(command) == UsageError.exit


def test_what_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, denoiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    for wrong, words in (
        ({"sigma_augment": 0.0}, "above 0"),
        ({"sigma_augment": 4.5}, "at most 4"),
        ({"sigma_augment": 0.25, "method": "ddim:1"}, "steps from 2"),
        ({"sigma_augment": 0.25, "method": "odd"}, "not known"),
        ({"denoiser": denoiser}, "--sigma-augment"),
        ({"method": "ddim:2"}, "--sigma-augment"),
    ):
        with pytest.raises(UsageError, match=words):
            train(nowhere, tmp_path / "model", **wrong)
    assert run(["train", str(nowhere), "--out", str(tmp_path / "model"), "--sigma-augment", "25%"]) == 2
    assert "did you mean 0.25?" in capsys.readouterr().err


def test_a_sigma_outside_the_schedule_leaves_nothing_behind(tmp_path: Path, trusted: Path, denoiser: str) -> None:
    with pytest.raises(UsageError, match="outside the denoiser's schedule"):
        train(trusted, tmp_path / "model", sigma_augment=1e-4, denoiser=denoiser)
    assert list(tmp_path.iterdir()) == []


def test_a_look_ahead_counts_the_noising_of_every_epoch(
    tmp_path: Path, trusted: Path, denoiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"recipe": SHORT, "device": "cpu", "workers": 1, "denoiser": denoiser}
    told = job.dry_run(trusted, tmp_path / "model", sigma_augment=0.25, **options)
    assert told.steps == 60 and any("--sigma-augment" in text for text in told.warnings)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(job.TrainJob, "_seconds_an_epoch", lambda self: 1000.0)
    told = job.dry_run(trusted, tmp_path / "model", sigma_augment=0.25, **options)
    assert 20_000 <= told.seconds < 21_000
