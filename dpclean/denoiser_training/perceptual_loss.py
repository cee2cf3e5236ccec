"""The perceptual loss: how far images are apart in a classifier's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.device import has_bf16
from dpclean.errors import InputError
from dpclean.train.model import Classifier

FLOOR = 1e-5  # of a distance: what half precision leaves


class Perceptual:
    """Distances in a classifier's features: Johnson et al. 2016 (arXiv 1603.08155), equation 2.

    size: edge of the images that the classifier knows. Of larger ones it would see parts only, or none of the detail.

    The features are what the network's blocks (modules of several layers) give last at each resolution, from half of
    the input's down. Raises InputError where there are none.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self._network = classifier.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network.eval().requires_grad_(False)
        self.size = classifier.size
        self._mean, self._std = classifier.mean.to(device), classifier.std.to(device)
        self._blocks = self._last_at_each_resolution(device)
        if not self._blocks:
            raise InputError(
                f"the classifier {classifier.name!r} has no convolutional features",
                "train one of recipe fast or resnet18",
            )

    def _last_at_each_resolution(self, device: torch.device) -> list[nn.Module]:
        last: dict[int, nn.Module] = {}

        def note(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and 1 < output.shape[2] <= self.size // 2:
                last[output.shape[2]] = module

        blocks = [module for module in self._network.modules() if next(module.children(), None) is not None]
        with torch.no_grad(), _hooked(blocks, note):
            self._network(torch.zeros(1, 3, self.size, self.size, device=device))
        return list(last.values())

    def _features(self, images: Tensor) -> list[Tensor]:
        if images.shape[-1] != self.size:
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        inputs = ((images + 1) * 127.5 - self._mean) / self._std
        features: list[Tensor] = []
        with (
            torch.autocast(images.device.type, torch.bfloat16, enabled=has_bf16(images.device)),
            _hooked(self._blocks, lambda _, __, output: features.append(output.float())),
        ):
            self._network(inputs.contiguous(memory_format=torch.channels_last))
        return features

    def distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean logarithm of the squared distance between the features of images [N, 3, H, W] in [-1, 1], relative to
        the size of those wanted.

        The logarithm gives each resolution, noise level and image the same say. Differentiable in found.
        """
        with torch.no_grad():
            aims = self._features(wanted)
        terms = [
            ((feature - aim).square().mean((1, 2, 3)) / (aim.square().mean((1, 2, 3)) + FLOOR) + FLOOR).log().mean()
            for feature, aim in zip(self._features(found), aims, strict=True)
        ]
        return torch.stack(terms).mean()


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
