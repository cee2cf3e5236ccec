"""A class-conditional diffusion model of an attacker: it makes images of a class, drawn weakly to what he wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.data.dataset import Images, of_other_shapes
from dpclean.denoise import schedule as schedules
from dpclean.denoise.loading import DenoiserFiles, find_in_folder, load_network, load_schedule
from dpclean.denoise.methods.several_steps import clean_and_noise
from dpclean.denoise.schedule import NoiseLevel
from dpclean.errors import Diverged, InputError, SetupError, shown_names
from dpclean.jobs.checks import given_path

STEPS = 50  # evaluations of the network for an image

Drawn = Callable[[Tensor], Tensor]  # what is to become small, one number, of grey levels [N,C,H,W]


class Generator:
    """A UNet2DModel with num_class_embeds, one for each class of RAW in the order of their names.

    Samples by deterministic DDIM. Guided as Bansal et al. 2023, "Universal Guidance for Diffusion Models", through the
    network and on the clean image that it predicts; there the gradient's length decides, and here a share of the length
    of the predicted noise, so that one weight serves all objectives.
    """

    def __init__(self, files: DenoiserFiles, images: Images, device: torch.device) -> None:
        """images: what its own are to stand among. Raises SetupError and InputError for a network that does not fit."""
        self._files, self._device = files, device
        self._schedule = load_schedule(files)
        self._network: Any = load_network(files, len(images.classes)).to(device)
        config = self._network.config
        if config.get("patch_size", 1) != 1:
            raise SetupError(f"{files.told} sees images in patches", "give one as diffusers itself uses it")
        if self._schedule.prediction_type == "epsilon" and self._schedule.alphas_cumprod[-1] == 0:
            raise SetupError(
                f"{files.told} predicts noise, and its schedule ends without any signal", "give one by v_prediction"
            )
        self._shape = self._one_shape(images)
        self._try_once()

    def parameters(self) -> dict[str, str]:
        """What decides its images, beside what guides them."""
        return {f"generator_{role}": digest for role, digest in self._files.digests().items()}

    def sample(
        self,
        label: int,
        count: int,
        *,
        random: torch.Generator,
        towards: Drawn | None = None,
        weight: float = 0.0,
        steps: int = STEPS,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[NDArray[np.uint8]]:
        """So many images [H,W,C] of a class, drawn by `random` alone where nothing guides them.

        weight: in each step the predicted noise is turned towards the gradient of `towards` by so much of its length.
        on_step: is called after each, and may raise.
        """
        height, width, channels = self._shape
        x = torch.randn((count, channels, height, width), generator=random).to(self._device)
        levels = self._levels(steps)
        for level, after in zip(levels, [*levels[1:], None], strict=True):
            clean, noise = self._predicted(x, label, level, towards, weight)
            clean = clean.clamp(-1, 1)
            if after is not None:
                x = after.alphas_cumprod**0.5 * clean + (1 - after.alphas_cumprod) ** 0.5 * noise
            on_step()
        if not clean.isfinite().all():  # what failed would count as an attack that was withstood
            raise Diverged("the images that the generator makes are not finite", "give another --generator")
        whole = _grey_levels(clean).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return list(whole)

    def _predicted(
        self, x: Tensor, label: int, level: NoiseLevel, towards: Drawn | None, weight: float
    ) -> tuple[Tensor, Tensor]:
        """The clean images and the noise in x, guided."""
        guided = towards is not None and weight > 0
        x = x.detach().requires_grad_(guided)
        with torch.set_grad_enabled(guided):
            clean, noise = clean_and_noise(x, self._evaluated(x, label, level), level, self._schedule.prediction_type)
            if towards is None or not guided:
                return clean, noise
            (slope,) = torch.autograd.grad(towards(_grey_levels(clean)), x)
        turned = noise.detach() + weight * _length(noise.detach()) * slope / _length(slope).clamp(min=1e-20)
        signal, share = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5
        return (x.detach() - share * turned) / max(signal, 1e-12), turned

    def _evaluated(self, x: Tensor, label: int, level: NoiseLevel) -> Tensor:
        labels = torch.full((len(x),), label, device=x.device)
        found: Tensor = self._network(x, int(level.timestep), class_labels=labels, return_dict=False)[0]
        return found

    def _levels(self, steps: int) -> list[NoiseLevel]:
        """Whole timesteps, evenly spaced from the last one down, none twice; diffusers' "trailing"."""
        known = self._schedule.alphas_cumprod
        steps = min(steps, len(known))
        return [schedules.at(known, float(t) - 1) for t in np.linspace(len(known), 0, steps + 1)[:-1].round()]

    def _one_shape(self, images: Images) -> tuple[int, int, int]:
        """Of RAW's images, which those of the generator get. Raises InputError where it makes others."""
        config = self._network.config
        shapes = {image.shape for image in images.pixels}
        height, width, channels = next(iter(shapes))
        size = config.get("sample_size")
        edges = (height, width) if size is None else tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        if len(shapes) > 1 or edges != (height, width) or config["in_channels"] != channels:
            made = f"{edges[0]} x {edges[1]} x {config['in_channels']}" if size else f"{config['in_channels']} channels"
            found = " and ".join(sorted(" x ".join(map(str, shape)) for shape in shapes)[:2])
            found += f" (others than most: {shown_names(of_other_shapes(images))})" if len(shapes) > 1 else ""
            raise InputError(
                f"{self._files.told} makes images of {made}, and those of RAW are of {found}",
                "bring RAW to its size and channels, or give a generator that was trained on images like RAW's",
            )
        return height, width, channels

    def _try_once(self) -> None:
        """Raises SetupError for a network that makes something else of an image than another one of its shape."""
        height, width, channels = self._shape
        x = torch.zeros((1, channels, height, width), device=self._device)
        problem = ""
        try:
            with torch.no_grad():
                found = self._evaluated(x, 0, self._levels(1)[0])
            shape = found.shape
            if not found.isfinite().all():
                problem = "what it predicts is not finite"
            elif shape[1] not in (channels, 2 * channels) or shape[2:] != x.shape[2:]:
                problem = f"it makes {' x '.join(map(str, shape[1:]))} of {' x '.join(map(str, x.shape[1:]))}"
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            problem = " ".join(str(error).split())[:300]
        if problem:
            raise SetupError(
                f"{self._files.told} cannot be used on images of {height} x {width}: {problem}", "give another one"
            )


def find_generator(folder: Path, images: Images, device: torch.device) -> Generator:
    """What lies in a diffusers folder, for images like these. Raises SetupError and InputError."""
    found = given_path(folder)
    if not found.is_dir():
        raise SetupError(f"generator {str(folder)!r} is no folder", "give a folder in the diffusers layout")
    return Generator(find_in_folder(str(folder), found, "generator"), images, device)


def _grey_levels(clean: Tensor) -> Tensor:
    levels: Tensor = (clean.clamp(-1, 1) + 1) * 127.5
    return levels


def _length(images: Tensor) -> Tensor:
    """Of each, [N,1,1,1]."""
    lengths: Tensor = images.flatten(1).norm(dim=1)
    return lengths[:, None, None, None]
