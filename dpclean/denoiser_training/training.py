"""Fitting a network to all noise levels at once: what one step is, and the state between steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.denoise import schedule
from dpclean.denoiser_training.patches import LARGE, SMALL, Patches, is_grey
from dpclean.denoiser_training.perceptual_loss import Perceptual
from dpclean.device import has_bf16
from dpclean.optim import Muon
from dpclean.train.model import Classifier

if TYPE_CHECKING:
    import diffusers

    from dpclean.denoise.unet import UNet2DModel

SIGMA_RANGE = (0.018, 1.1)  # a little beyond what is promised, 0.02 to 1.0
LEVELS = 4096
LARGE_EVERY = 4  # one step in so many is of large patches, and of a quarter as many
WARM_UP = 100  # steps
MUON_FACTOR, MOMENTUM, WEIGHT_DECAY = 20.0, 0.95, 0.01  # filters learn by Muon, at a factor of the learning rate
AVERAGED = 0.03  # of all steps, the time constant of the exponential average
USUAL_GAIN = 65.0  # a denoiser of natural images leaves about sigma^2 / (1 + USUAL_GAIN sigma) of squared error
LEAST_RATE = 1e-3  # of the learning rate, at the end
PERCEPTUAL_WEIGHT = 0.5  # beside a squared error of about 1; with twice as much, more PSNR is lost and little is won


@dataclass(frozen=True)
class Recipe:
    """Everything beside images, network and its first weights that decides the result."""

    steps: int
    batch_size: int  # small patches a step
    learning_rate: float
    seed: int

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: a short rise, then half a cosine down."""
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * max(min(1.0, (step + 1) / WARM_UP) * falling, LEAST_RATE)


@dataclass(frozen=True)
class Levels:
    """Noise levels, evenly spaced in log sigma, where a schedule has them. All float32 [LEVELS]."""

    alphas_cumprod: Tensor
    timesteps: Tensor

    @classmethod
    def of(cls, alphas_cumprod: np.ndarray, device: torch.device) -> Levels:
        """The levels of SIGMA_RANGE that a schedule reaches."""
        low, high = (((1 - abar) / abar) ** 0.5 / 2 for abar in (alphas_cumprod[0], max(alphas_cumprod[-1], 1e-6)))
        sigmas = np.geomspace(max(SIGMA_RANGE[0], low * 1.0001), min(SIGMA_RANGE[1], high / 1.0001), LEVELS)
        matched = [schedule.match(alphas_cumprod, float(sigma)) for sigma in sigmas]
        abars, steps = ([getattr(m, name) for m in matched] for name in ("alphas_cumprod", "timestep"))
        return cls(*(torch.tensor(values, dtype=torch.float32, device=device) for values in (abars, steps)))


def as_velocity(prediction: Tensor, noised: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans and Ho 2022, appendix D) from any kind of prediction."""
    if prediction_type == "epsilon":
        return (prediction - (1 - abar).sqrt() * noised) / abar.sqrt()
    if prediction_type == "sample":
        return (abar.sqrt() * noised - prediction) / (1 - abar).sqrt()
    return prediction


class Training:
    """A network, its exponential average and its optimizer, after some steps of a recipe.

    A step's random numbers depend on the seed and on its number alone, so a training that goes on from a saved state
    ends with the weights of one that was never interrupted, on the same device with the same number of threads.
    """

    def __init__(
        self,
        network: UNet2DModel | diffusers.UNet2DModel,
        patches: Patches,
        recipe: Recipe,
        *,
        patch_size: int,
        alphas_cumprod: np.ndarray,
        prediction_type: str,
        device: torch.device,
        classifier: Classifier | None = None,
    ) -> None:
        self.network: Any = network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.patches, self.recipe, self.device = patches.to(device), recipe, device
        self.patch_size, self.prediction_type = patch_size, prediction_type
        self.levels = Levels.of(alphas_cumprod, device)
        self.classifier = classifier
        self._perceptual = Perceptual(classifier, device) if classifier else None
        self.done = 0
        self._parameters: dict[str, nn.Parameter] = dict(self.network.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self._parameters.items()}
        ends = {id(parameter) for conv in (network.conv_in, network.conv_out) for parameter in conv.parameters()}
        inner = {name: p for name, p in self._parameters.items() if p.ndim == 4 and id(p) not in ends}
        self._muon = Muon(list(inner.values()), MUON_FACTOR, MOMENTUM, WEIGHT_DECAY)
        self._momentum = dict(zip(inner, self._muon.momenta, strict=True))
        self._others = {name: p for name, p in self._parameters.items() if name not in inner}
        self._rate, self._kept = torch.zeros((), device=device), torch.zeros((), device=device)  # of the step
        self._optimizer = torch.optim.AdamW(
            self._others.values(), lr=self._rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True,
            capturable=device.type == "cuda",
        )  # fmt: skip
        self._replayed: dict[torch.Size, _Replayed] = {}  # by the shape of a batch

    def loss(self, found: Tensor, wanted: Tensor, abar: Tensor) -> Tensor:
        """The mean squared error of v [N, C, H, W], relative to what is usual at each image's noise level.

        So all levels count alike, and within a level busy images count more than smooth ones: they are what a
        classifier needs. v is off by 1 / sigma^2 of the image's error and 1 + 4 sigma^2 = 1 / abar.
        """
        sigma = ((1 - abar) / abar).sqrt() / 2
        return ((found - wanted).square() * abar * (1 + USUAL_GAIN * sigma)).mean()

    def step(self) -> Tensor:
        """One step; its loss, float32 [], which is not waited for."""
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed * 1_000_003 + self.done)
        batch = self._batch(generator)
        self._rate.fill_(self.recipe.rate(self.done))
        # the average follows quickly at first, in the end with the recipe's time constant
        self._kept.fill_(min((1 + self.done) / (10 + self.done), 1 - 1 / max(10.0, AVERAGED * self.recipe.steps)))
        if self.device.type == "cuda":
            replayed = self._replayed.setdefault(batch[0].shape, _Replayed(self._update))
            loss = replayed(batch)
        else:
            loss = self._update(*batch)
        self.done += 1
        return loss

    def _update(self, clean: Tensor, noised: Tensor, abar: Tensor, timesteps: Tensor) -> Tensor:
        """What a step does with its batch, on CUDA without the host."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bf16(self.device)):
            prediction = self.network(self._input(noised), timesteps)
        prediction = getattr(prediction, "sample", prediction)  # diffusers wraps it
        prediction = functional.pixel_shuffle(prediction.float(), self.patch_size)[:, : clean.shape[1]]
        found = as_velocity(prediction, noised, abar, self.prediction_type)
        wanted = (abar.sqrt() * noised - clean) / (1 - abar).sqrt()
        loss = self.loss(found, wanted, abar)
        if self._perceptual is not None and clean.shape[-1] <= self._perceptual.size:
            seen = abar.sqrt() * noised - (1 - abar).sqrt() * found
            loss = loss + PERCEPTUAL_WEIGHT * self._perceptual.distance(seen, clean)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._learn()
        self._follow()
        return loss.detach()

    def _input(self, noised: Tensor) -> Tensor:
        return functional.pixel_unshuffle(noised, self.patch_size).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _learn(self) -> None:
        """Muon (Jordan et al. 2024) for the inner filters, AdamW for the rest."""
        self._optimizer.step()
        self._muon.step(self._rate)

    def _batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(clean, noised, abar [N, 1, 1, 1], timesteps [N]), one noise level an image."""
        large = len(self.patches.large) > 0 and self.done % LARGE_EVERY == LARGE_EVERY - 1
        count, edge = (max(1, self.recipe.batch_size // 4), LARGE) if large else (self.recipe.batch_size, SMALL)
        clean = self.patches.draw(generator, count, edge)
        level = torch.randint(LEVELS, (count,), generator=generator, device=self.device)
        abar = self.levels.alphas_cumprod[level][:, None, None, None]
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        noise = torch.where(is_grey(clean)[:, None, None, None], noise[:, :1], noise)  # grey: three times the same
        return clean, abar.sqrt() * clean + (1 - abar).sqrt() * noise, abar, self.levels.timesteps[level]

    @torch.no_grad()
    def _follow(self) -> None:
        average: list[Tensor] = list(self.average.values())
        parameters: list[Tensor] = list(self._parameters.values())
        torch._foreach_mul_(average, self._kept)
        torch._foreach_add_(average, torch._foreach_mul(parameters, 1 - self._kept))

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        tensors = {"done": torch.tensor(self.done)}
        for name, parameter in self._parameters.items():
            tensors |= {f"weight/{name}": parameter.detach(), f"average/{name}": self.average[name]}
            if name in self._momentum:
                tensors[f"momentum/{name}"] = self._momentum[name]
            else:
                tensors |= {f"{key}/{name}": value for key, value in self._optimizer.state[parameter].items()}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises KeyError or RuntimeError for one of another network."""
        self.done = int(state["done"])
        for name, parameter in self._parameters.items():
            parameter.copy_(state[f"weight/{name}"])
            self.average[name].copy_(state[f"average/{name}"])
            if name in self._momentum:
                self._momentum[name].copy_(state[f"momentum/{name}"])
                continue
            kept = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}  # of its memory layout too
            kept["step"] = torch.zeros((), device=self.device)
            self._optimizer.state[parameter] = {key: value.copy_(state[f"{key}/{name}"]) for key, value in kept.items()}


WARM = 3  # steps before a capture, in which libraries set up what must not be captured


class _Replayed:
    """A function of tensors whose shapes stay: called a few times, then captured as a CUDA graph and replayed.

    See PyTorch's notes on CUDA semantics, "CUDA Graphs".
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function, self._called = function, 0
        self._given: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.empty(0)

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        self._called += 1
        if self._called <= WARM:
            return self._aside(tensors)
        if self._graph is None:
            self._given = tuple(tensor.clone() for tensor in tensors)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._function(*self._given)
        for there, here in zip(self._given, tensors, strict=True):
            there.copy_(here)
        self._graph.replay()
        return self._result.clone()

    def _aside(self, tensors: Sequence[Tensor]) -> Tensor:
        """On another stream, as what comes before a capture has to be."""
        aside = torch.cuda.Stream(tensors[0].device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            result = self._function(*tensors)
        torch.cuda.current_stream().wait_stream(aside)
        return result
