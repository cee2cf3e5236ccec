"""The denoiser as a function that gradients go through: for those who judge it by attackers that know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.mean_correction import corrected, correction_of
from dpclean.denoise.methods import Evaluation, Noise, find_method
from dpclean.denoise.tiling import Blend, mirror_pad
from dpclean.noise import add_noise
from dpclean.noise.fused import backward_constants, forward_constant
from dpclean.noise.normal import standard_normal

KEPT_PIXELS = 1 << 17  # of all images and evaluations together; 0.8 GiB by `natural` in float32


class DifferentiableDenoiser:
    """What a Denoiser does, on float images and in one precision, but for the network where it is given its own.

    Rounding to grey levels, of the images and of the result, passes gradients straight through (Bengio et al. 2013,
    "Estimating or Propagating Gradients Through Stochastic Neurons"); all else has its own. The network's activations
    are kept for so many of the last evaluations as have KEPT_PIXELS, one at least, and computed again on the way back
    for the others, so that memory does not grow with a method's steps or with tiles.
    """

    def __init__(
        self, denoiser: Denoiser, dtype: torch.dtype = torch.float32, network_dtype: torch.dtype | None = None
    ) -> None:
        """network_dtype: that of the network alone, weights and activations; bfloat16 halves the time where a device
        has it, with gradients whose direction is that of float32: their cosine is 1 within a part or two in a thousand.
        """
        self._denoiser, self._dtype = denoiser, dtype
        self._method = find_method(denoiser.method)
        own = network_dtype or dtype
        self._evaluations = [
            Evaluation(level, partial(_computed_in, own, network)) for level, network in denoiser.evaluations(own)
        ]
        self._computed_again = [
            Evaluation(level, partial(checkpoint, network, use_reentrant=False)) for level, network in self._evaluations
        ]

    def __call__(self, images: Tensor, *, key: bytes, run: int, indices: ArrayLike, test: bool = False) -> Tensor:
        """[N, C, H, W] on [0, 1] to the same, on the denoiser's device. key, run, indices, test: as in `add_noise`.

        What lies between grey levels or beyond them is rounded and clipped before it is noised. Raises InputError for
        colour images where the denoiser takes grey ones only.
        """
        self._denoiser.check_channels(0, images.shape[1])
        images = images.to(self._denoiser.device, self._dtype)
        grey_levels = _rounded(images * 255)
        pixels = grey_levels.detach().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        level, numbers = self._denoiser.level, np.asarray(indices, np.int64)
        if level.sigma == 0:
            return grey_levels / 255
        noised_pixels = add_noise(pixels, level.sigma, key=key, run=run, indices=numbers, test=test)
        noise = (noised_pixels.int() - pixels.int()).permute(0, 3, 1, 2)
        noised = (2 * (grey_levels + noise) - 255) * forward_constant(level.alphas_cumprod)
        draw = partial(standard_normal, device=images.device, key=key, run=run, indices=numbers, test=test)
        return self._finished(noised, self._predicted(noised, draw))

    def _predicted(self, noised: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        """The prediction for whole images, [N, C or more, H, W], from tiles where they are large."""
        count, _, height, width = noised.shape
        blends = [Blend(self._denoiser.shapes, height, width, noised.device) for _ in range(count)]
        places = list(blends[0].places())
        kept = max(1, KEPT_PIXELS // (count * places[0].height * places[0].width))
        again = max(0, len(places) * len(self._evaluations) - kept)  # the last come first on the way back
        for place in places:
            corner, edges = place[:2], (min(place.height, height - place.top), min(place.width, width - place.left))
            window = noised[:, :, place.top : place.top + edges[0], place.left : place.left + edges[1]]
            noise = _noise(draw, noised, corner, edges, place[2:])
            evaluations = [*self._computed_again[:again], *self._evaluations[again:]]
            again = max(0, again - len(evaluations))
            predicted = self._of_a_tile(mirror_pad(window, *place[2:]), noise, evaluations)
            whole = [blend.add(tile, place) for blend, tile in zip(blends, predicted, strict=True)]
        return torch.stack([image for image in whole if image is not None])

    def _of_a_tile(self, batch: Tensor, noise: Noise, evaluations: Sequence[Evaluation]) -> Tensor:
        channels = self._denoiser.in_channels
        batch = batch.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)
        return self._method.denoise(batch, evaluations, self._denoiser.schedule, noise)[:, :channels]

    def _finished(self, noised: Tensor, prediction: Tensor) -> Tensor:
        level, kind = self._denoiser.level, self._method.result_type(self._denoiser.schedule.prediction_type)
        correction = correction_of(noised, prediction, level, kind)
        p, q = backward_constants(level.alphas_cumprod, kind)
        levels = p * noised + q * corrected(correction, prediction, level, kind) + 127.5
        return _rounded(levels) / 255


def _computed_in(dtype: torch.dtype, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x.to(dtype)).to(x.dtype)


def _rounded(levels: Tensor) -> Tensor:
    """Grey levels from 0 to 255, with the gradient of what they were made from, which clipping stops."""
    clipped = levels.clamp(0, 255)
    return clipped + (clipped.round() - clipped).detach()


def _noise(
    draw: Callable[..., Tensor],
    noised: Tensor,
    corner: tuple[int, int],
    edges: tuple[int, int],
    padded: tuple[int, int],
) -> Noise:
    """What a random method draws for a window of images."""
    channels, height, width = noised.shape[1:]

    def drawn(step: int) -> Tensor:
        window = draw((height, width, channels), corner, edges, purpose=f"sde/{step}")
        return mirror_pad(window, *padded).to(noised.dtype)

    return drawn
