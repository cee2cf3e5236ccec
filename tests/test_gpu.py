"""Every kind of job on a GPU, from end to end: what runs there may differ from a CPU's path in more than speed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import dpclean
from dpclean.certificate.verify import verify
from dpclean.certify.job import certify
from dpclean.certify.predict import predict
from dpclean.classifier_training.job import train
from tests.certify.conftest import write_folder

DEVICE = "cuda"
SMALL: dict[str, Any] = {
    "recipe": "tiny", "alpha": "0.3", "bound": "union", "seed": 3, "seed_chosen_after_data": True,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "noise": {"sigma": "0.25", "runs": 6, "keep_models": True},
    "noised test points": {"sigma": "0.25", "runs": 6, "threat": "noised-test"},
    "several steps": {"sigma": "0.25", "runs": 6, "method": "sde:2"},
    "shares": {"sigma": "0", "runs": 8, "subsample": "0.5", "keep_models": True},
    "shares with noise": {"sigma": "0.25", "runs": 8, "subsample": "0.5"},
    "parts": {"sigma": "0", "partitions": 4, "bound": None, "alpha": None},
}

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_is_made_and_made_again_with_the_same_votes(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path / "raw", 6, prefix="train")
    raw = write_folder(tmp_path / "raw", 3, first=100, prefix="test")
    asked = {name: value for name, value in {**SMALL, **KINDS[kind]}.items() if value is not None}
    for out in ("one", "other"):
        certify(raw, tmp_path / out, device=DEVICE, **asked)
        verify(tmp_path / out)
    votes = [hashlib.sha256((tmp_path / out / "votes.safetensors").read_bytes()).digest() for out in ("one", "other")]
    assert votes[0] == votes[1]
    if asked.get("keep_models"):
        assert len(predict(tmp_path / "one", raw / "test", device=DEVICE)) == 9


@pytest.mark.parametrize("sigma", ["0", "0.25"])
def test_a_certificate_of_features(tmp_path: Path, sigma: str) -> None:
    train(write_folder(tmp_path / "others", 6), tmp_path / "model", recipe="tiny", device=DEVICE, seed=1)
    write_folder(tmp_path / "raw", 6, first=20, prefix="train")
    raw = write_folder(tmp_path / "raw", 3, first=100, prefix="test")
    asked = {
        **SMALL,
        "recipe": None,
        "runs": 8,
        "subsample": "0.5",
        "extractor": str(tmp_path / "model"),
        "sigma": sigma,
    }
    certify(raw, tmp_path / "out", device=DEVICE, **{name: value for name, value in asked.items() if value is not None})
    assert verify(tmp_path / "out").points == 9


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("method", ["one-step", "ddim:2", "sde:2"])
def test_sanitized_folders_are_the_same_each_time(tmp_path: Path, method: str, sigma: float) -> None:
    raw = write_folder(tmp_path / "raw", 3)
    for out in ("one", "other"):
        dpclean.sanitize(raw, tmp_path / out, sigma=sigma, method=method, device=DEVICE, seed=1, workers=1)
    files = [sorted((tmp_path / out).rglob("*.png")) for out in ("one", "other")]
    assert len(files[0]) == 9
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))
