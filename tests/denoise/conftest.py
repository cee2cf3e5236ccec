"""Small random networks in the diffusers layout, made once a test run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "add_attention": False,
    "norm_num_groups": 4,
}

MakeDenoiser = Callable[..., Path]


@pytest.fixture
def make_denoiser(tmp_path: Path) -> MakeDenoiser:
    """A folder with a random UNet2DModel; prepare(model) may change its weights first."""

    def make(
        name: str = "denoiser", prediction_type: str = "epsilon", prepare: Callable[[Any], None] | None = None, **config: Any
    ) -> Path:
        from diffusers import UNet2DModel

        torch.manual_seed(0)
        model = UNet2DModel(**{**SMALL, **config})
        if prepare is not None:
            with torch.no_grad():
                prepare(model)
        folder = tmp_path / name
        model.save_pretrained(folder)
        (folder / "scheduler").mkdir()
        scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "prediction_type": prediction_type}
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        return folder

    return make
