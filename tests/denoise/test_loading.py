"""Which denoisers are taken, and what is said about those that are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpclean.denoise.loading import find_denoiser, load_network, load_schedule
from dpclean.errors import SetupError
from tests.networks import make_denoiser


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(folder: Path) -> SetupError:
    with pytest.raises(SetupError) as caught:
        files = find_denoiser(str(folder))
        load_schedule(files)
        load_network(files)
    return caught.value


def test_a_folder_and_a_whole_pipeline_are_found(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    pipeline = tmp_path / "p"
    pipeline.mkdir()
    (folder / "scheduler").rename(pipeline / "scheduler")
    folder.rename(pipeline / "unet")
    for name in (pipeline, pipeline / "unet"):
        assert find_denoiser(str(name)).weights == pipeline / "unet" / "diffusion_pytorch_model.safetensors"


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.bin")
    assert "pickle" in refusal(folder).message


@pytest.mark.parametrize(
    "missing", ["config.json", "diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = make_denoiser(tmp_path / "d")
    (folder / missing).unlink()
    assert refusal(folder).exit == 4


@pytest.mark.parametrize(
    ("file", "fields", "word"),
    [
        ("config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ("config.json", {"in_channels": 4}, "4 channels"),
        ("config.json", {"sample_size": "64"}, "sample_size '64'"),
        ("config.json", {"sample_size": [64, 0]}, "sample_size"),
        ("config.json", {"patch_size": 2}, "3 channels in patches of 2"),
        ("config.json", {"in_channels": 12}, "12 channels in patches of 1"),
        ("config.json", {"patch_size": 3, "in_channels": 27}, "patch_size 3"),
        ("config.json", {"patch_size": "2", "in_channels": 12}, "patch_size '2'"),
        ("config.json", {"num_class_embeds": 10}, "class labels"),
        ("config.json", {"block_out_channels": [8, 24]}, "cannot be loaded"),
        ("scheduler/scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "alphas_cumprod"),
        ("scheduler/scheduler_config.json", {"_class_name": "UNet2DModel"}, "alphas_cumprod"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "flow"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, file: str, fields: dict[str, object], word: str
) -> None:
    folder = make_denoiser(tmp_path / "d")
    edit(folder / file, **fields)
    assert word in refusal(folder).message


def test_garbage_weights_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "nan", prepare=lambda model: model.conv_in.weight.fill_(float("nan")))
    assert "not finite" in refusal(folder).message
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)
    assert "cannot be loaded" in refusal(folder).message


def test_a_huge_configuration_is_not_parsed(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    (folder / "config.json").write_text(" " * (1 << 21))
    assert "1 MiB" in refusal(folder).message


def test_a_usual_denoiser_is_loaded_without_diffusers(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    code = (
        "import sys; from dpclean.denoise.loading import *; files = find_denoiser(sys.argv[1]);"
        " load_schedule(files); load_network(files); assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_every_beta_schedule_of_the_scheduler_class_is_known(tmp_path: Path, schedule: str) -> None:
    from diffusers import DDPMScheduler

    folder = make_denoiser(tmp_path / "d")
    edit(folder / "scheduler" / "scheduler_config.json", beta_schedule=schedule)
    alphas_cumprod, prediction_type = load_schedule(find_denoiser(str(folder)))
    expected = DDPMScheduler(beta_schedule=schedule).alphas_cumprod
    np.testing.assert_allclose(alphas_cumprod, expected.double().numpy())
    assert prediction_type == "epsilon"


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(SetupError, match="neither bundled"):
        find_denoiser("natrual")
