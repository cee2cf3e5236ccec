"""Our own network, and folding the noise level into any, change nothing but the time it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from dpclean.denoise import fused_convolution, unet
from dpclean.denoise.network import FixedLevelNetwork
from tests.networks import SMALL, make_denoiser

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


OURS = {"plain", "scale and shift", "attention", "learned variance", "ddpm paddings", "grey", "centred input"}


def expected_of(variant: dict[str, Any]) -> tuple[UNet2DModel, torch.Tensor, torch.Tensor]:
    """A random network of diffusers, an input, and what it makes of it at timestep 123.4."""
    torch.manual_seed(1)
    model = UNet2DModel(**{**SMALL, **variant}).eval()
    for parameter in model.parameters():  # so that norms, biases and the time embedding all have a say
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, model.config.in_channels, 32, 64)
    with torch.no_grad():
        return model, x.contiguous(memory_format=torch.channels_last), model(x, torch.tensor(123.4)).sample


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_folded_network_of_diffusers_computes_what_diffusers_computes(variant: dict[str, Any]) -> None:
    model, x, expected = expected_of(variant)
    with torch.no_grad():
        found = FixedLevelNetwork(model, 123.4, torch.float32, torch.device("cpu"))(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_own_network_computes_what_diffusers_computes(name: str) -> None:
    model, x, expected = expected_of(VARIANTS[name])
    config = {**SMALL, **VARIANTS[name]}
    assert unet.supports(config) and unet.supports(dict(model.config))
    own = unet.UNet2DModel.from_state(dict(model.config), model.state_dict())
    with torch.no_grad():
        found = FixedLevelNetwork(own, 123.4, torch.float32, torch.device("cpu"))(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_own_network_is_trained_as_diffusers_would(name: str) -> None:
    """The same predictions at a timestep each, and the same gradients."""
    model, x, _ = expected_of(VARIANTS[name])
    own = unet.UNet2DModel.from_state(dict(model.config), model.state_dict())
    timesteps = torch.tensor([7.5, 432.1])
    expected, found = model.requires_grad_(True)(x, timesteps).sample, own.requires_grad_(True)(x, timesteps)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for result in (expected, found):
        result.square().mean().backward()
    of_own = dict(own.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        found, expected = of_own[parameter_name].grad, parameter.grad
        assert found is not None and expected is not None
        assert (found - expected).norm() <= 2e-3 * expected.norm() + 1e-7, parameter_name


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_sum_in_one_pass_or_two_is_the_sum(
    fused: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr(fused_convolution, "_FUSED", None)
    torch.manual_seed(2)
    conv = torch.nn.Conv2d(24, 16, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    x, other = torch.randn(3, 24, 9, 7).to(dtype), torch.randn(3, 16, 9, 7).to(dtype)
    x, other = (t.contiguous(memory_format=torch.channels_last) for t in (x, other))
    kept = other.clone()
    with torch.no_grad():
        expected = torch.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1) + other.double()
        found = fused_convolution.convolved_onto(conv, x, other)
        alone = fused_convolution.convolved_onto(conv, x[1:2], other[1:2])  # by another kernel, on some processors
        assert torch.equal(other, kept)
        x[0], x[2], other[0], other[2] = 7.0, -7.0, 5.0, -5.0
        beside_others = fused_convolution.convolved_onto(conv, x, other)
    assert torch.equal(beside_others[1], found[1])
    assert (alone - found[1:2]).abs().max() <= tolerance * expected.abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_what_our_own_network_does_not_know_goes_through_diffusers() -> None:
    assert not unet.supports({**SMALL, **VARIANTS["resampling in residual blocks"]})
    assert not unet.supports({**SMALL, "an_option_of_tomorrow": 1})
    assert not unet.supports({**SMALL, "act_fn": "gelu"})
    assert not unet.supports({**SMALL, "down_block_types": ("SkipDownBlock2D", "DownBlock2D")})


def test_attention_weights_under_their_old_names_are_read() -> None:
    model, x, expected = expected_of(VARIANTS["attention"])
    old = {new: old for old, new in unet.OLD_NAMES.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, name_then in old.items():
            name = name.replace(new, name_then)
        state[name] = tensor
    assert any(".proj_attn." in name for name in state)
    own = unet.UNet2DModel.from_state(dict(model.config), state)
    with torch.no_grad():
        found = FixedLevelNetwork(own, 123.4, torch.float32, torch.device("cpu"))(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [True, False], ids=["ours", "diffusers'"])
def test_patches_are_the_network_between_unshuffle_and_shuffle(own: bool, dtype: torch.dtype) -> None:
    model, _, _ = expected_of({"in_channels": 12, "out_channels": 24})  # learned variance: twice the channels

    def network(patch_size: int) -> FixedLevelNetwork:
        config = {**model.config, "patch_size": patch_size}
        if own:
            return FixedLevelNetwork(
                unet.UNet2DModel.from_state(config, model.state_dict()), 123.4, dtype, torch.device("cpu")
            )
        copied = UNet2DModel(**{**SMALL, "in_channels": 12, "out_channels": 24})
        copied.load_state_dict(model.state_dict())
        copied.register_to_config(patch_size=patch_size)
        return FixedLevelNetwork(copied, 123.4, dtype, torch.device("cpu"))

    x = torch.randn(3, 3, 16, 24).to(dtype).contiguous(memory_format=torch.channels_last)
    patched, plain = network(2), network(1)
    assert (patched.in_channels, patched.stride) == (3, 4) and (plain.in_channels, plain.stride) == (12, 2)
    with torch.no_grad():
        found = patched(x)
        expected = torch.pixel_shuffle(plain(torch.pixel_unshuffle(x, 2)), 2)
    assert found.shape == (3, 6, 16, 24)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_processor_without_instructions_for_half_precision_runs_it_all_the_same(dtype: str, tmp_path: Path) -> None:
    """oneDNN is told to use no more than AVX2, as on most desktop processors."""
    folder = make_denoiser(tmp_path / "d")
    program = f"""
import numpy as np
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
(result,) = Denoiser(find_denoiser({str(folder)!r}), 0.25, dtype={dtype!r}, device="cpu").denoise(
    [(0, np.full((32, 32, 3), 99, np.uint8))], key=bytes(32))
print(result.finite, result.retried)
"""
    narrow = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=narrow, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
