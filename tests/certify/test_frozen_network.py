"""Runs that keep the weights they begin from, but for the last layer: few images train one, so shares can be small."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from dpclean.certificate.verify import verify
from dpclean.certify.job import certify
from dpclean.classifier_training.job import train
from dpclean.train.init import find_init
from dpclean.train.model import WEIGHTS_NAME
from dpclean.train.recipes import find_recipe
from tests.certify.conftest import write_folder
from tests.certify.test_extractor import shard
from tests.certify.test_training_runs import make_runs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a network of two classes, and there are three: the last layer is another one in every run."""
    root = tmp_path_factory.mktemp("model")
    train(shard(root / "others", 20, 0), root / "model", recipe="tiny", device="cpu", seed=1)
    return str(shutil.copy(root / "model" / WEIGHTS_NAME, root / "kept.safetensors"))  # that come from anywhere


@pytest.mark.parametrize("sigma", ["0", "0.25"])
@pytest.mark.parametrize("taking", [{"subsample": "0.4"}, {"partitions": 3}])
def test_only_the_last_layer_learns_from_what_a_run_takes(
    raw: Path, tmp_path: Path, transparent: str, model: str, sigma: str, taking: dict[str, Any]
) -> None:
    runs = make_runs(
        raw, tmp_path, transparent, recipe="tiny", init=model, freeze=True, sigma=sigma, keep_models=True, **taking
    )
    kept = dict(find_init(model, find_recipe("tiny")).weights)
    assert runs._trainer is not None
    (head,) = (name for name, module in runs._trainer.network.named_modules() if module is runs._trainer._head)
    of_head = set[bytes]()
    for number in (1, 2, 3):
        ballot = runs.cast(number)
        trained = load(runs.model() or b"")
        assert ballot.min() >= 0 and trained.keys() == kept.keys()
        for name, weights in trained.items():
            if name.startswith(head):
                assert weights.shape != kept[name].shape
                of_head.add(weights.numpy().tobytes())
            else:
                assert torch.equal(weights, kept[name]), name
    assert len(of_head) >= 3


@pytest.mark.parametrize(
    "taking", [{"subsample": "0.5", "runs": 8, "alpha": "0.3", "bound": "union"}, {"partitions": 2, "sigma": "0.25"}]
)
def test_whole_jobs_on_a_frozen_network(tmp_path: Path, transparent: str, model: str, taking: dict[str, Any]) -> None:
    raw = write_folder(write_folder(tmp_path / "raw", 8, prefix="train"), 1, first=100, prefix="test")
    asked = {
        "sigma": "0",
        "denoiser": transparent,
        "recipe": "tiny",
        "init": model,
        "freeze": True,
        "device": "cpu",
    } | taking
    told = certify(raw, tmp_path / "out", workers=1, **asked)
    assert told.failed == 0 and verify(tmp_path / "out").job == told.job
    assert np.isfinite(float(told.largest_radius))
