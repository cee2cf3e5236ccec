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
        ("config.json", {"block_out_channels": [8, 24]}, "mismatch for down_blocks.1"),
        ("config.json", {"time_embedding_type": "learned"}, "whole timesteps"),
        ("config.json", {"layers_per_block": -1}, "layers_per_block is -1"),
        ("config.json", {"layers_per_block": 1 << 40}, "layers_per_block is"),
        ("config.json", {"norm_num_groups": 0}, "cannot be loaded"),
        ("config.json", {"block_out_channels": [[8], {"a": 1}]}, "block_out_channels is"),
        ("config.json", {"down_block_types": None}, "cannot be loaded"),
        ("config.json", {"norm_eps": float("nan")}, "norm_eps is nan"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "schedule cannot be made"),
        ("scheduler/scheduler_config.json", {"beta_start": [1]}, "schedule cannot be made"),
        ("scheduler/scheduler_config.json", {"trained_betas": []}, "do not fall"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, float("nan")]}, "do not fall"),
        ("scheduler/scheduler_config.json", {"trained_betas": [[0.1], "x"]}, "schedule cannot be made"),
        ("scheduler/scheduler_config.json", {"beta_end": -5.0}, "do not fall"),
        ("scheduler/scheduler_config.json", {"beta_start": float("nan")}, "do not fall"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "num_train_timesteps"),
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


@pytest.mark.parametrize("file", ["config.json", "scheduler/scheduler_config.json"])
def test_a_nest_of_brackets_is_refused(tmp_path: Path, file: str) -> None:
    folder = make_denoiser(tmp_path / "d")
    (folder / file).write_text('{"a":' + "[" * 100_000)
    assert "is not JSON" in refusal(folder).message


@pytest.mark.parametrize(
    "options", [{"max_shard_size": "20KB"}, {"variant": "fp16"}, {"variant": "fp16", "max_shard_size": "20KB"}]
)
@pytest.mark.parametrize("own", [True, False], ids=["ours", "diffusers'"])
def test_shards_and_variants_are_read(tmp_path: Path, options: dict[str, str], own: bool) -> None:
    from diffusers import UNet2DModel

    folder = make_denoiser(tmp_path / "d", **({} if own else {"downsample_type": "resnet"}))
    network = UNet2DModel.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    network.save_pretrained(folder, **options)
    files = find_denoiser(str(folder))
    assert len(files.shards) > 1 or "max_shard_size" not in options
    assert len(files.digests()) == 3 + len(files.shards)
    expected, found = network.state_dict(), load_network(files).state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    if files.shards:
        files.shards[0].unlink()
        assert "which is not there" in refusal(folder).message


def test_an_index_leads_to_no_other_folder(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    (folder / "diffusion_pytorch_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"conv_in.weight": "../elsewhere.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "which is not there" in refusal(folder).message


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
    alphas_cumprod, prediction_type, _ = load_schedule(find_denoiser(str(folder)))
    expected = DDPMScheduler(beta_schedule=schedule).alphas_cumprod
    np.testing.assert_allclose(alphas_cumprod, expected.double().numpy())
    assert prediction_type == "epsilon"


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(SetupError, match="neither bundled"):
        find_denoiser("natrual")
