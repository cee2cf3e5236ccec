"""Trusted images in memory, as patches of two sizes, and the batches that a denoiser is fitted on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.data.ancestry import Ancestry, ancestry_of_data, united
from dpclean.data.dataset import by_reason, none_usable, unusable
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.digest import PixelDigest, pixel_sha256
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.denoise.tiling import mirror_pad

SMALL, LARGE = 32, 64  # edges of patches
MOST_PATCHES = 100_000  # 1.2 GB of the large ones; of more images, evenly spaced ones are read
MOST_CROPS = 100  # of one image
GREY_SHARE = 1 / 16
WHOLE_SHARE = 3 / 4  # of small patches made from large ones

# Small images were made by all kinds of programs, some of them sharper than others.
REDUCTIONS: tuple[Callable[[Tensor, tuple[int, int]], Tensor], ...] = (
    functional.adaptive_avg_pool2d,
    partial(functional.interpolate, mode="bilinear", antialias=True),
    partial(functional.interpolate, mode="bicubic", antialias=True),
)


@dataclass(frozen=True)
class Patches:
    """Patches of images: small ones where an image's shorter edge is below LARGE, else large ones."""

    small: Tensor  # uint8 [N, 3, SMALL, SMALL]
    large: Tensor  # uint8 [N, 3, LARGE, LARGE]
    squares: int  # how many of `large`, the first ones, are the largest squares of their images
    images: int
    quarantined: dict[str, int]  # samples left out, by reason
    remarks: list[str]  # on how they were read, one sentence each
    ancestry: Ancestry  # the images, and what they were made of

    def to(self, device: torch.device) -> Patches:
        """The same on a device."""
        return replace(self, small=self.small.to(device), large=self.large.to(device))

    def draw(self, generator: torch.Generator, count: int, edge: int) -> Tensor:
        """float32 [count, 3, edge, edge] in [-1, 1]: patches whole, cropped or reduced, flipped, some of them grey.

        edge: SMALL, or LARGE where there are large patches. Of the small ones most are whole images made small, as
        users' small images are; the rest crops at any scale. A batch has one of REDUCTIONS.
        """
        device = self.large.device
        # what the host must know is drawn there: it would have to wait for a device
        here = generator if device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high, (1,), generator=here))

        if edge == LARGE:
            source, crop = self.large, LARGE
        elif integer(0, len(self.small) + self.squares) < len(self.small):
            source, crop = self.small, SMALL
        elif torch.rand((), generator=here) < WHOLE_SHARE:
            source, crop = self.large[: self.squares], LARGE
        else:
            source, crop = self.large, integer(SMALL, LARGE + 1)
        chosen = source[torch.randint(len(source), (count,), generator=generator, device=device)]
        top, left = (integer(0, source.shape[-1] - crop + 1) for _ in range(2))
        x = chosen[:, :, top : top + crop, left : left + crop].float()
        if crop != edge:
            x = REDUCTIONS[integer(0, len(REDUCTIONS))](x, (edge, edge))
        flip, grey = torch.rand((2, count, 1, 1, 1), generator=generator, device=device)
        x = torch.where(flip < 0.5, x.flip(3), x)
        x = torch.where(grey < GREY_SHARE, x.mean(1, keepdim=True), x)
        return x.clamp(0, 255).round() / 127.5 - 1


def is_grey(images: Tensor) -> Tensor:
    """bool [N]: which of [N, 3, H, W] have three equal channels."""
    return (images[:, :1] == images).flatten(1).all(1)


def read_patches(sources: Sequence[Path], *, seed: int, workers: int | None = None) -> Patches:
    """Read folders of images or shards. Which crops are taken depends on the seed and the images' places only.

    Raises InputError where a source cannot be used or none of its files is an image.
    """
    options = DataOptions()
    opened = [open_source(path, options) for path in sources]
    listed = sum(1 for source in opened for _ in source.entries())
    every = max(1, -(-listed // MOST_PATCHES))
    chosen = [list(itertools.islice(source.entries(), 0, None, every)) for source in opened]
    room = MOST_PATCHES - listed // every  # for further crops of what is larger than a patch
    firsts: dict[int, list[NDArray[np.uint8]]] = {SMALL: [], LARGE: []}
    others: dict[int, list[NDArray[np.uint8]]] = {SMALL: [], LARGE: []}
    inherited = [ancestry_of_data(path) for path in sources]  # first: it may be damaged
    hashes: list[bytes] = []
    digests: list[str] = []
    left_out: list[tuple[str, str]] = []
    images = 0
    with WorkerPool(workers or len(os.sched_getaffinity(0)), options) as pool:
        for number, source in enumerate(opened):
            before, digest = images, PixelDigest()
            for sample in source.samples(chosen[number], pool):
                if sample.pixels is None:
                    if sample.reason is not None:
                        left_out.append((str(source.root / sample.entry.name), sample.reason.value))
                    continue
                rng = np.random.default_rng([seed, number, sample.entry.index])
                first, *rest = _patches(sample.pixels, 1 + min(room, MOST_CROPS - 1), rng)
                firsts[len(first)].append(first)
                others[len(first)] += rest
                room -= len(rest)
                found, entry = pixel_sha256(sample.pixels), sample.entry
                digest.update(entry.index, entry.name, entry.label, sample.pixels.shape, found)
                hashes.append(found[:8])
                images += 1
            if images == before:
                raise none_usable(sources[number], len(chosen[number]), left_out)
            digests.append(digest.hexdigest())
    squares = len(firsts[LARGE])
    small, large = (_stacked(firsts[edge], others[edge], edge) for edge in (SMALL, LARGE))
    ancestry = united([Ancestry.of(hashes, *digests), *inherited])
    remarks = [remark for source in opened for remark in source.remarks()] + unusable(left_out, "images")
    return Patches(small, large, squares, images, by_reason(left_out), remarks, ancestry)


def _patches(pixels: NDArray[np.uint8], most: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """uint8 [edge, edge, 3] patches of one image [H, W, C]: the largest square first, then crops at several scales."""
    from PIL import Image

    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    height, width = (max(SMALL, size) for size in pixels.shape[:2])
    if pixels.shape[:2] != (height, width):
        pixels = mirror_pad(torch.from_numpy(pixels).permute(2, 0, 1), height, width).permute(1, 2, 0).numpy()
    longest = min(height, width)
    edge = LARGE if longest >= LARGE else SMALL
    image = Image.fromarray(pixels)
    for number in range(max(1, min(most, 2 * height * width // edge**2 - 1))):
        crop = longest if number == 0 else int(edge * (longest / edge) ** rng.random())
        left, top = (int(rng.integers(0, size - crop + 1)) for size in (width, height))
        box = (left, top, left + crop, top + crop)
        yield np.asarray(image.resize((edge, edge), Image.Resampling.LANCZOS, box=box))


def _stacked(firsts: list[NDArray[np.uint8]], others: list[NDArray[np.uint8]], edge: int) -> Tensor:
    stacked = np.stack(firsts + others) if firsts else np.empty((0, edge, edge, 3), np.uint8)
    firsts.clear()
    others.clear()
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
