"""A UNet2DModel at one fixed noise level: everything that the timestep decides is folded into constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.denoise.fused_convolution import convolved_onto, fuses_bias, without_bias
from dpclean.denoise.group_norm import group_norm_silu
from dpclean.denoise.precision import at_least_float32
from dpclean.denoise.winograd import Winograd, with_fewer_products

if TYPE_CHECKING:
    import diffusers

    from dpclean.denoise.unet import ResnetBlock2D, UNet2DModel


class FusedNorm(nn.Module):
    """GroupNorm, and SiLU after it if wanted, in one pass; statistics in float32 whatever the activations are."""

    def __init__(
        self, norm: nn.GroupNorm, silu: bool, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> None:
        super().__init__()
        weight, bias = norm.weight.float(), norm.bias.float()
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        self.weight, self.bias = (nn.Parameter(t.detach().clone(), requires_grad=False) for t in (weight, bias))
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu

    def _apply(self, fn: Any, recurse: bool = True) -> FusedNorm:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight.data, self.bias.data = at_least_float32(self.weight.data), at_least_float32(self.bias.data)
        return self

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Of x + added, added [C]."""
        return group_norm_silu(x, self.weight, self.bias, self.groups, self.eps, self.silu, added)


class FixedResnetBlock(nn.Module):
    """A ResnetBlock2D whose time embedding became part of a bias (or of the second norm's affine map)."""

    def __init__(self, block: ResnetBlock2D, embedding: Tensor) -> None:
        super().__init__()
        scale = shift = None
        self.conv1, self.conv2, self.conv_shortcut = block.conv1, block.conv2, block.conv_shortcut
        if block.time_emb_proj is not None:
            projected = block.time_emb_proj(embedding if block.skip_time_act else block.nonlinearity(embedding))[0]
            if block.time_embedding_norm == "scale_shift":
                scale, shift = projected.chunk(2)
            else:
                assert self.conv1.bias is not None
                self.conv1.bias.data = self.conv1.bias.data + projected
        self.norm1 = FusedNorm(block.norm1, silu=True)
        self.norm2 = FusedNorm(block.norm2, True, scale, shift)
        self.resample = block.upsample or block.downsample
        self.output_scale_factor = block.output_scale_factor

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.norm1(x)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        fuses, left = fuses_bias(x), None
        h = self.norm2(without_bias(self.conv1, h), self.conv1.bias) if fuses else self.norm2(self.conv1(h))
        if self.conv_shortcut is not None and fuses:
            x, left = without_bias(self.conv_shortcut, x), self.conv_shortcut.bias
        elif self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        total = convolved_onto(self.conv2, h, x, left)
        return total if self.output_scale_factor == 1 else total.div_(self.output_scale_factor)


class NearestUpsample(nn.Module):
    """Upsample2D by two without the copies to another memory format that diffusers makes for large batches."""

    def __init__(self, conv: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, output_size: int | None = None) -> Tensor:
        if isinstance(self.conv, Winograd):
            fewer: Tensor = self.conv(x, upsampled=True)
            return fewer
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)


class FixedLevelNetwork(nn.Module):
    """The network at one timestep, ready for inference; model, of unet.py or diffusers, is used up. like: the same
    network at another timestep, whose filters and matrices are equal, to keep them once.

    forward: x [B, C, H, W] of the given dtype, channels_last -> prediction of the same height and width.
    H and W are multiples of `stride`, and best not much larger than `sample_size`, the edge of the images that it was
    fitted on (0 where the configuration does not say). A sample's result does not depend on what the others in the
    batch are; on their number it may in its last bits, and on that of the threads, as libraries choose kernels
    and split sums by the shape of the batch and by the threads.

    A configuration with patch_size p > 1 is of a network that sees each p x p pixels of a channel as p^2 channels
    (Shi et al. 2016, the inverse of sub-pixel shuffling): torch's pixel_unshuffle before it, pixel_shuffle after it.
    """

    def __init__(
        self,
        model: UNet2DModel | diffusers.UNet2DModel,
        timestep: float,
        dtype: torch.dtype,
        device: torch.device,
        like: FixedLevelNetwork | None = None,
    ) -> None:
        super().__init__()
        with torch.no_grad():
            t = torch.tensor([timestep], dtype=torch.float32)
            self.embedding = model.time_embedding(model.time_proj(t).float())
            _fold(model, self.embedding)
            with_fewer_products(model, dtype, device, like)
        self.center_input = bool(model.config.center_input_sample)
        self.conv_in, self.down_blocks, self.mid_block = model.conv_in, model.down_blocks, model.mid_block
        self.up_blocks, self.conv_out = model.up_blocks, model.conv_out
        self.norm_out = FusedNorm(model.conv_norm_out, silu=True)
        self.patch_size = int(getattr(model.config, "patch_size", 1))
        self.in_channels = int(model.config.in_channels) // self.patch_size**2
        sizes = getattr(model.config, "sample_size", None) or 0  # one edge, or both
        self.sample_size = self.patch_size * (sizes if isinstance(sizes, int) else max(sizes))
        self.stride = self.patch_size * 2 ** (len(model.config.down_block_types) - 1)
        self.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.embedding = self.embedding.to(device=device, dtype=dtype)
        self.requires_grad_(False).eval()
        if like is not None:
            for mine, its in zip(self.parameters(), like.parameters(), strict=True):
                if mine.ndim > 1:
                    mine.data = its.data

    def forward(self, x: Tensor) -> Tensor:
        if self.patch_size == 1:
            return self._predict(x)
        return functional.pixel_shuffle(self._predict(functional.pixel_unshuffle(x, self.patch_size)), self.patch_size)

    def _predict(self, x: Tensor) -> Tensor:
        if self.center_input:
            x = 2 * x - 1
        skip_sample = x
        h = self.conv_in(x)
        skips: tuple[Tensor, ...] = (h,)
        for block in self.down_blocks:
            if hasattr(block, "skip_conv"):
                h, residuals, skip_sample = block(hidden_states=h, temb=self.embedding, skip_sample=skip_sample)
            else:
                h, residuals = block(hidden_states=h, temb=self.embedding)
            skips += residuals
        if self.mid_block is not None:
            h = self.mid_block(h, self.embedding)
        carried = None
        for block in self.up_blocks:
            count = len(cast(nn.ModuleList, block.resnets))
            residuals, skips = skips[-count:], skips[:-count]
            if hasattr(block, "skip_conv"):
                h, carried = block(h, residuals, self.embedding, carried)
            else:
                h = block(h, residuals, self.embedding)
        out: Tensor = self.conv_out(self.norm_out(h))
        return out if carried is None else out + carried


def _fold(module: nn.Module, embedding: Tensor) -> None:
    """Replace what the noise level fixes, by the blocks' names: the same ones come from unet.py and from diffusers."""
    for name, child in module.named_children():
        kind, own = type(child).__name__, type(child).__module__.startswith("dpclean")
        if kind == "ResnetBlock2D" and isinstance(child.nonlinearity, nn.SiLU):
            setattr(module, name, FixedResnetBlock(cast("ResnetBlock2D", child), embedding))
        elif kind == "Upsample2D" and (own or _plainly_nearest(child)):
            setattr(module, name, NearestUpsample(cast("nn.Module | None", child.conv)))
        elif kind == "Attention" and own:
            child.group_norm = FusedNorm(cast(nn.GroupNorm, child.group_norm), silu=False)
        else:
            _fold(child, embedding)


def _plainly_nearest(block: Any) -> bool:
    return block.interpolate and not block.use_conv_transpose and block.norm is None
