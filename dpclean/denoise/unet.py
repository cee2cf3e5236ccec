"""The usual UNet2DModel of diffusers in plain torch: same configuration, same parameter names, same numbers.

Importing diffusers takes longer than sanitizing a thousand small images, so the block types that nearly all pixel
diffusion models are made of (Ho et al. 2020) are here; `supports` tells which configurations those are, and the
rest goes through diffusers itself. Tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.denoise.group_norm import group_norm_silu

DEFAULTS: dict[str, Any] = {
    "patch_size": 1,  # ours, not diffusers': network.py
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
}
# what an option must be for this module to stand in for diffusers
ONLY: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
IRRELEVANT = {"sample_size", "dropout", "num_train_timesteps"}
# names of attention weights before diffusers 0.12
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def supports(config: Mapping[str, Any]) -> bool:
    """Whether this module computes what diffusers computes for a configuration."""
    known = DEFAULTS.keys() | ONLY.keys() | IRRELEVANT
    full = {**DEFAULTS, **config}
    blocks = {*full["down_block_types"], *full["up_block_types"]}
    attends = full["add_attention"] or any(name.startswith("Attn") for name in blocks)
    return (
        all(key in known for key in config if not key.startswith("_"))
        and all(config.get(key, allowed[0]) in allowed for key, allowed in ONLY.items())
        and blocks <= {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}
        and not (attends and full["resnet_time_scale_shift"] == "scale_shift")
    )


class ResnetBlock2D(nn.Module):
    """Two normalised convolutions beside a shortcut. As it stands for training; network.FixedResnetBlock sanitizes."""

    upsample = downsample = None
    skip_time_act = False

    def __init__(self, inputs: int, outputs: int, c: SimpleNamespace, output_scale_factor: float = 1.0) -> None:
        super().__init__()
        self.time_embedding_norm = c.resnet_time_scale_shift
        self.output_scale_factor = output_scale_factor
        self.norm1 = nn.GroupNorm(c.norm_num_groups, inputs, c.norm_eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(c.time_dim, outputs * (2 if c.resnet_time_scale_shift == "scale_shift" else 1))
        self.norm2 = nn.GroupNorm(c.norm_num_groups, outputs, c.norm_eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.nonlinearity = nn.SiLU()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        projected = self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        h = self.conv1(_normed(self.norm1, x))
        if self.time_embedding_norm == "scale_shift":
            scale, shift = projected.chunk(2, 1)
            h = functional.silu(_normed(self.norm2, h, silu=False) * (1 + scale) + shift)
        else:
            h = _normed(self.norm2, h + projected)
        total: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + self.conv2(h)
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor


def _normed(norm: nn.GroupNorm, x: Tensor, silu: bool = True) -> Tensor:
    return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu=silu)


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, c: SimpleNamespace, rescale_output_factor: float = 1.0) -> None:
        super().__init__()
        self.heads = channels // (c.attention_head_dim or channels)
        self.rescale_output_factor = rescale_output_factor
        self.group_norm = nn.GroupNorm(c.norm_num_groups, channels, c.norm_eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(h).view(batch, height * width, self.heads, -1).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        h = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)
        h = self.to_out[0](h).transpose(1, 2).reshape(batch, channels, height, width)
        total: Tensor = h.contiguous(memory_format=torch.channels_last) + x
        return total if self.rescale_output_factor == 1 else total / self.rescale_output_factor


class Downsample2D(nn.Module):
    """A convolution of stride 2; without padding, one row and column are added below and to the right."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)
        return out


class Upsample2D(nn.Module):
    """Each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class _Block(nn.Module):
    """Residual blocks, each followed by attention where the block's type has it."""

    def __init__(self, shapes: list[tuple[int, int]], attends: bool, c: SimpleNamespace) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock2D(inputs, outputs, c) for inputs, outputs in shapes)
        self.attends = attends
        if attends:
            self.attentions = nn.ModuleList(Attention(outputs, c) for _, outputs in shapes)

    def step(self, number: int, x: Tensor, temb: Tensor) -> Tensor:
        x = self.resnets[number](x, temb)
        return self.attentions[number](x) if self.attends else x


class DownBlock2D(_Block):
    """Residual blocks, then half the resolution; gives back what the way up will need."""

    def __init__(self, shapes: list[tuple[int, int]], attends: bool, last: bool, c: SimpleNamespace) -> None:
        super().__init__(shapes, attends, c)
        downsamplers = [] if last else [Downsample2D(shapes[-1][1], c.downsample_padding)]
        self.downsamplers = nn.ModuleList(downsamplers)

    def forward(self, hidden_states: Tensor, temb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        residuals: tuple[Tensor, ...] = ()
        for number in range(len(self.resnets)):
            hidden_states = self.step(number, hidden_states, temb)
            residuals += (hidden_states,)
        for downsample in self.downsamplers:
            hidden_states = downsample(hidden_states)
            residuals += (hidden_states,)
        return hidden_states, residuals


class UpBlock2D(_Block):
    """Residual blocks that take in what the way down left, then twice the resolution."""

    def __init__(self, shapes: list[tuple[int, int]], attends: bool, last: bool, c: SimpleNamespace) -> None:
        super().__init__(shapes, attends, c)
        self.upsamplers = nn.ModuleList([] if last else [Upsample2D(shapes[-1][1])])

    def forward(self, x: Tensor, residuals: tuple[Tensor, ...], temb: Tensor) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.step(number, torch.cat([x, residuals[-1 - number]], 1), temb)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNetMidBlock2D(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them if there is any."""

    def __init__(self, channels: int, c: SimpleNamespace) -> None:
        super().__init__()
        factor = c.mid_block_scale_factor
        self.resnets = nn.ModuleList(ResnetBlock2D(channels, channels, c, factor) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels, c, factor)] if c.add_attention else [])

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        x = self.resnets[0](x, temb)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x, temb)
        return out


class Timesteps(nn.Module):
    """Sines and cosines of a timestep: [N] -> [N, size]."""

    def __init__(self, size: int, cosine_first: bool, frequency_shift: float) -> None:
        super().__init__()
        self.size, self.cosine_first, self.frequency_shift = size, cosine_first, frequency_shift

    def forward(self, timesteps: Tensor) -> Tensor:
        half = self.size // 2
        count = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        exponents = -math.log(10000) * count / (half - self.frequency_shift)
        angles = timesteps[:, None].float() * exponents.exp()
        parts = [angles.cos(), angles.sin()] if self.cosine_first else [angles.sin(), angles.cos()]
        return functional.pad(torch.cat(parts, 1), (0, self.size % 2))


class TimestepEmbedding(nn.Module):
    """Two linear maps with SiLU between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(functional.silu(self.linear_1(x)))
        return out


class UNet2DModel(nn.Module):
    """A diffusers UNet2DModel with the same parameter names; `network.FixedLevelNetwork` runs it at one level."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = c = SimpleNamespace(**{**DEFAULTS, **config})
        widths: list[int] = list(c.block_out_channels)
        c.time_dim = c.time_embedding_dim or 4 * widths[0]
        self.time_proj = Timesteps(widths[0], c.flip_sin_to_cos, c.freq_shift)
        self.time_embedding = TimestepEmbedding(widths[0], c.time_dim)
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        final, layers = len(widths) - 1, c.layers_per_block
        for i, (kind, width) in enumerate(zip(c.down_block_types, widths, strict=True)):
            shapes = [(widths[max(i - 1, 0)] if j == 0 else width, width) for j in range(layers)]
            self.down_blocks.append(DownBlock2D(shapes, kind.startswith("Attn"), i == final, c))
        self.mid_block = UNetMidBlock2D(widths[-1], c)
        upwards = widths[::-1]
        for i, (kind, width) in enumerate(zip(c.up_block_types, upwards, strict=True)):
            below, above = upwards[max(i - 1, 0)], upwards[min(i + 1, final)]
            inputs = [(below if j == 0 else width) + (above if j == layers else width) for j in range(layers + 1)]
            shapes = [(size, width) for size in inputs]
            self.up_blocks.append(UpBlock2D(shapes, kind.startswith("Attn"), i == final, c))
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def forward(self, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction [N, C, H, W] for samples of that shape, channels_last, at timesteps [N]."""
        temb = self.time_embedding(self.time_proj(timesteps))
        h = self.conv_in(2 * sample - 1 if self.config.center_input_sample else sample)
        skips: tuple[Tensor, ...] = (h,)
        for down in self.down_blocks:
            h, residuals = down(h, temb)
            skips += residuals
        h = self.mid_block(h, temb)
        for up in self.up_blocks:
            count = len(up.resnets)  # type: ignore[arg-type]
            h, skips = up(h, skips[-count:], temb), skips[:-count]
        out: Tensor = self.conv_out(_normed(self.conv_norm_out, h))
        return out

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> UNet2DModel:
        """A network of that configuration with those weights; RuntimeError where they do not belong together."""
        with torch.device("meta"):
            network = cls(config)
        renamed = {_new_name(name): tensor.float() for name, tensor in state.items()}
        network.load_state_dict(renamed, strict=True, assign=True)
        return network


def _new_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name
