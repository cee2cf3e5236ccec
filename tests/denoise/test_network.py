"""Folding the noise level into the weights changes nothing but the time it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from dpclean.denoise.network import FixedLevelNetwork
from tests.networks import SMALL

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "attention": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "add_attention": True,
        "attention_head_dim": 8,
    },
    "resampling in residual blocks": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "learned variance": {"out_channels": 6},
    "ddpm paddings": {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6},
    "grey": {"in_channels": 1, "out_channels": 1},
    "centred input": {"center_input_sample": True},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_folded_network_computes_what_diffusers_computes(variant: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = UNet2DModel(**{**SMALL, **variant}).eval()
    x = torch.randn(2, model.config.in_channels, 32, 64)
    with torch.no_grad():
        expected = model(x, torch.tensor(123.4)).sample
        network = FixedLevelNetwork(model, 123.4, torch.float32, torch.device("cpu"))
        found = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
