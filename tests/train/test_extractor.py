"""Extractors: what an image becomes depends on it alone, and where the network comes from is known or said."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torchvision import models

from dpclean.classifier_training.job import train
from dpclean.cli import run
from dpclean.data.features import read_features
from dpclean.errors import ConflictError, InputError, SetupError, UsageError
from dpclean.train.cifar_resnet import CifarResNet
from dpclean.train.efficientnet_lite import CHANNELS, EfficientNetLite0
from dpclean.train.extractor import PACKAGE, Extractor, find_extractor
from dpclean.train.features import features
from dpclean.train.recipes import LITE

CPU = torch.device("cpu")
DRAW = np.random.default_rng(1)


def images(root: Path, count: int = 6, first: int = 0) -> Path:
    """A shard of noise in two classes."""
    pixels = np.random.default_rng(first).integers(0, 256, (count, 16, 16, 3), np.uint8)
    root.mkdir()
    tensors = {"images": torch.from_numpy(pixels), "labels": torch.arange(count) % 2}
    save_file(tensors, root / "s.safetensors", {"class_names": json.dumps(["a", "b"])})
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train(images(folder / "data", 20), folder / "model", recipe="tiny", device="cpu", seed=1)
    return folder / "model"


@pytest.fixture(scope="module")
def extractor(model: Path) -> Extractor:
    return find_extractor(str(model), device=CPU)


def test_features_are_the_same_bits_at_every_place_and_in_every_batch(extractor: Extractor) -> None:
    count = extractor.trainer.recipe.predict_batch + 9
    pixels = list(DRAW.integers(0, 256, (count, 16, 16, 3), np.uint8))
    rows = extractor.features(pixels)
    assert rows.shape == (count, 64) and rows.dtype == np.float32 and len(np.unique(rows, axis=0)) == count
    order = DRAW.permutation(count)
    assert np.array_equal(extractor.features([pixels[place] for place in order]), rows[order])
    assert np.array_equal(extractor.features(pixels[:3] + pixels[4:]), np.delete(rows, 3, axis=0))
    assert np.array_equal(extractor.features(pixels[7:8])[0], rows[7])


def test_features_are_what_the_classifier_reads(extractor: Extractor) -> None:
    pixels = DRAW.integers(0, 256, (5, 16, 16, 3), np.uint8)
    trainer = extractor.trainer
    inputs = trainer._normalized(torch.from_numpy(pixels))
    with torch.inference_mode():
        logits = trainer.network.eval()(inputs)
        again = trainer._head(torch.from_numpy(extractor.features(list(pixels)))) * trainer.network.scale
    assert torch.allclose(again, logits, atol=1e-4)


def test_another_mean_is_another_extractor(model: Path, extractor: Extractor, tmp_path: Path) -> None:
    """Whoever goes on with a job, or predicts by a certificate, is to get the rows that it had."""
    other = tmp_path / "model"
    shutil.copytree(model, other)
    told = json.loads((other / "model.json").read_bytes())
    assert find_extractor(str(other), device=CPU).digest == extractor.digest
    told["recipe"]["mean"] = [0.4, 0.5, 0.5]
    (other / "model.json").write_text(json.dumps(told))
    assert find_extractor(str(other), device=CPU).digest != extractor.digest


def test_the_weights_of_torchvision_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.get_model("squeezenet1_1", num_classes=7)  # its last layer is a convolution, and of another shape
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    found = find_extractor("torchvision:squeezenet1_1@64", tmp_path / "weights.safetensors", device=CPU)
    assert found.features([np.zeros((64, 64, 3), np.uint8)]).shape == (1, 512)
    assert "nothing tells what the weights" in found.ancestry.because()
    (tmp_path / "weights.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="cannot be read"):
        find_extractor("torchvision:squeezenet1_1@64", tmp_path / "weights.pth", device=CPU)
    with pytest.raises(InputError, match="do not fit"):
        find_extractor("torchvision:resnet18@64", tmp_path / "weights.safetensors", device=CPU)


def test_what_names_no_extractor(tmp_path: Path) -> None:
    for source, weights, kind, said in (
        ("torchvision:resnet18", None, UsageError, "needs --weights"),
        ("efficientnet-lite0", tmp_path / "w", UsageError, "brings its own"),
        ("efficientnet-lite0@7", None, UsageError, "8 to 1024"),
        (str(tmp_path / "nothing"), None, InputError, "is no model"),
    ):
        with pytest.raises(kind, match=said):
            find_extractor(source, weights, device=CPU)


def test_the_network_of_efficientnet_lite0_takes_images_of_any_size() -> None:
    network = EfficientNetLite0(1000).eval()
    assert sum(weight.numel() for weight in network.parameters()) == 4_652_008
    hidden: list[torch.Tensor] = []
    network._blocks.register_forward_hook(lambda _, __, out: hidden.append(out))
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 112, 112)).shape == (1, 1000)
        network(torch.zeros(1, 3, 45, 45))
    assert [tuple(out.shape[1:]) for out in hidden] == [(320, 4, 4), (320, 2, 2)]


def test_the_package_of_weights_is_read_once_and_then_a_safetensors_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if find_spec(PACKAGE) is None:
        with pytest.raises(SetupError, match="not installed"):
            find_extractor(f"{LITE}@32", device=CPU)
        return
    found = find_extractor(f"{LITE}@32", device=CPU)
    assert found.features([np.zeros((32, 32, 3), np.uint8)]).shape == (1, CHANNELS)
    (cached,) = tmp_path.rglob("*.safetensors")
    monkeypatch.setattr("dpclean.train.extractor.find_spec", lambda name: None)
    assert find_extractor(f"{LITE}@32", device=CPU).digest == found.digest != find_extractor(LITE, device=CPU).digest
    cached.write_bytes(cached.read_bytes()[:-1] + b"\1")
    with pytest.raises(SetupError, match="not installed"):
        find_extractor(f"{LITE}@32", device=CPU)


def test_a_file_of_features_is_what_certify_takes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = images(tmp_path / "raw", first=5), tmp_path / "rows.safetensors"
    assert run(["features", str(raw), "--extractor", str(model), "--out", str(out), "--device", "cpu"]) == 0
    assert "6 images in 2 classes, 64 numbers each" in capsys.readouterr().out
    found = read_features(out)
    assert found.classes == ("a", "b") and found.labels.tolist() == [0, 1] * 3
    assert found.names[1] == "s.safetensors#1" and found.named
    with safe_open(out, framework="numpy") as file:
        told = json.loads(file.metadata()["extractor"])
    assert told == {"id": str(model), "digest": find_extractor(str(model), device=CPU).digest, "size": 16}
    before = out.read_bytes()
    with pytest.raises(ConflictError, match="there already"):
        features(raw, out, extractor=str(model))
    assert features(raw, out, extractor=str(model), overwrite=True).images == 6 and out.read_bytes() == before


def test_images_that_made_the_extractor_and_splits_are_refused(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.safetensors"
    with pytest.raises(InputError, match="6 of these images went into the extractor"):
        features(images(tmp_path / "seen", 6), out, extractor=str(model))
    rows = load_file(model.parent / "data" / "s.safetensors")["images"]
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / "raw" / split / "a").mkdir(parents=True)
        Image.fromarray(255 - rows[0]).save(tmp_path / "raw" / split / "a" / "0.png")
    with pytest.raises(InputError, match="has splits"):
        features(tmp_path / "raw", out, extractor=str(model))
    assert not out.exists()


def test_the_resnets_of_cifar_take_weights_with_and_without_counters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CifarResNet(3, 10)
    assert sum(weights.numel() for weights in network.parameters()) == 269_722  # as published: 0.27 million
    weights = network.state_dict()
    older = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(older) < len(weights)
    picture = DRAW.integers(0, 256, (32, 32, 3), np.uint8)
    rows = []
    for number, kept in enumerate((weights, older)):
        save_file(kept, tmp_path / f"{number}.safetensors")
        found = find_extractor("cifar-resnet20", tmp_path / f"{number}.safetensors", device=CPU)
        assert found.size == 32 and found.dimensions() == 64
        rows.append(found.features([picture]))
    assert np.array_equal(*rows)
    with pytest.raises(UsageError, match="needs --weights"):
        find_extractor("cifar-resnet56", device=CPU)


def test_gradients_reach_the_images(extractor: Extractor) -> None:
    pixels = DRAW.integers(0, 256, (3, 16, 16, 3), np.uint8)
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().requires_grad_()
    rows = extractor.differentiable_features(levels)
    assert torch.allclose(rows, torch.from_numpy(extractor.features(list(pixels))), atol=1e-5)
    (slope,) = torch.autograd.grad(rows[1].sum(), levels)
    assert slope[1].abs().sum() > 0 and slope[[0, 2]].abs().sum() == 0
    larger = torch.rand(2, 1, 24, 20) * 255
    assert extractor.differentiable_features(larger).shape == (2, 64)
