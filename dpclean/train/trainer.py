"""A network, a recipe, and the loop: fit and predict, as often as wanted."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dpclean.device import first_line, has_bf16, keep_memory, refusing
from dpclean.errors import Diverged, InputError
from dpclean.train import augment
from dpclean.train.networks import Residual, build, head, outline
from dpclean.train.optimizers import scale
from dpclean.train.recipes import Recipe
from dpclean.train.step import Changed, Drawn, Step

MOST_PIXELS = 1 << 28  # of a batch of images: as many as any recipe has at the largest size that is given by name
WHITENING_IMAGES = 5000  # from which the first layer's filters are found


@dataclass(frozen=True)
class Epoch:
    """What on_epoch is told. number: from 1. loss and accuracy: means over the epoch's batches, as they came."""

    number: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float  # of this epoch


State = dict[str, Any]


@dataclass
class _Fit:
    """A fit under way."""

    seed: int
    epochs: int
    step: Step
    first_flips: Tensor
    done: int = 0  # steps
    seconds: float = 0.0  # of this epoch so far

    @property
    def steps(self) -> int:
        return self.step.steps * self.epochs


class Trainer:
    """Built once, then fit many times: weights are set in place, and a fit depends on nothing but its arguments.

    One fit at a time in a process: networks with dropout draw from torch's global generator, which a fit borrows.

    size: S of the images, uint8 [N,S,S,3]. init: weights to begin from instead of fresh ones; a head of another
    shape stays fresh. Raises InputError where init does not fit the network.
    On the CPU a fit gives the same weights bit for bit for the same number of threads. replay: on a GPU, a step is
    captured once and replayed (step.py); everything that it reads and writes stays there from fit to fit. changed: what
    a step learns from in place of its normalized inputs float32 [B,3,S,S], given their classes [B] and the network's
    logits in evaluation mode; where it draws, from torch's global generator, which is set for every step.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: int,
        *,
        size: int,
        device: torch.device,
        init: Mapping[str, Tensor] | None = None,
        replay: bool = True,
        changed: Changed | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_memory()
        self.recipe = recipe
        self.classes = classes
        self.size = size
        self.device = device
        self.network = build(recipe, classes, 0).to(device).to(memory_format=torch.channels_last)
        self._head = head(self.network)
        self._init = None if init is None else _fitting(init, self.network, self._head)
        self.mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1) * 255
        if isinstance(self.network, Residual):
            self.network.whiten.weight.requires_grad_(False)
        if recipe.freeze:
            self.network.requires_grad_(False)
            self._head.requires_grad_(True)
        self._replay = replay and device.type == "cuda" and changed is None
        self._changed = changed
        self._step: Step | None = None
        self._fit: _Fit | None = None
        self._try_size()

    def _try_size(self) -> None:
        """Refuses images that are too small or too large, or of another size than the network was made for."""
        if self.recipe.predict_batch * self.size**2 > MOST_PIXELS:
            raise InputError(
                f"images of {self.size} x {self.size} are too large for batches of {self.recipe.predict_batch}",
                f"give the recipe a size, as in {self.recipe.name.partition('@')[0]}@224",
            )
        self.network.eval()
        blank = torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8, device=self.device)
        try:
            with torch.inference_mode():
                self._probabilities(blank)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(
                f"images of {self.size} x {self.size} do not fit the network {self.recipe.network!r}: {error}",
                f"give the recipe a size, as in {self.recipe.name.partition('@')[0]}@{self.recipe.size or 32}",
            ) from error

    @property
    def dtype(self) -> torch.dtype:
        """Of products and convolutions."""
        half = self.recipe.precision == "bf16" and has_bf16(self.device)
        return torch.bfloat16 if half else torch.float32

    # -- fit

    def fit(
        self,
        images: Tensor | Callable[[int], Tensor],
        labels: Tensor,
        *,
        seed: int,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        resume: State | None = None,
    ) -> None:
        """Train on uint8 [N,S,S,3] with labels int64 [N], all of them from 0 to classes - 1.

        images: or what gives those of an epoch, from 1, in a tensor that is the fit's; it may do what on_epoch may.
        Every random choice comes from seed and the number of the step. on_step gets steps done and steps in all; it
        and on_epoch may read checkpoint(), and may raise, which ends the fit. resume: a checkpoint of a fit with the
        same arguments, which then ends with the same weights. Raises Diverged, by the arguments alone, and SetupError
        for what the machine refuses.
        """
        with (
            refusing("training"),
            _untrainable(len(labels)),
            _deterministic(),
            torch.random.fork_rng(self._generators()),
        ):
            of_epoch = images if callable(images) else None
            first = images if isinstance(images, Tensor) else images(self._epoch(resume, len(labels)))
            fit = self._begin(self._step_over(first, labels), seed)
            given = fit.done if resume is None else resume["done"]  # for this step and those that follow in its epoch
            if resume is not None:
                self._restore(fit, resume)
                self._draw(fit)
            while fit.done < fit.steps:
                begun = time.perf_counter()
                if fit.done % fit.step.steps == 0:
                    if of_epoch is not None and fit.done != given:
                        fit.step.images.copy_(of_epoch(fit.done // fit.step.steps + 1))
                    self._draw(fit)
                torch.manual_seed(number_of(fit.seed, "network", fit.done))  # for networks with dropout
                fit.step()
                fit.done += 1
                fit.seconds += time.perf_counter() - begun
                if fit.done % fit.step.steps == 0:
                    self._end_epoch(fit, on_epoch)
                if on_step is not None:
                    on_step(fit.done, fit.steps)
        self._fit = None
        if fit.step.average is not None:
            self.network.load_state_dict(fit.step.average.state_dict())
        finite = [tensor.isfinite().all() for tensor in self.network.state_dict().values()]
        if not bool(torch.stack(finite).all()):
            raise Diverged("the weights are not finite after training", "use another seed or another recipe")

    def _step_over(self, images: Tensor, labels: Tensor) -> Step:
        """The step over these images: the one of the fit before where they fit into its tensors."""
        before = self._step
        if self._replay and before is not None and before.images.shape == images.shape:
            before.images.copy_(images)
            before.labels.copy_(labels)
            return before
        self._step = before = None  # its memory is needed
        images, labels = images.to(self.device, copy=self._replay), labels.to(self.device, copy=self._replay)
        steps = self._steps(len(images))
        self._step = Step(
            self.recipe, self.network, self._head, images, labels, steps, self._normalized, self._logits,
            replay=self._replay, changed=self._changed,
        )  # fmt: skip
        return self._step

    def _steps(self, images: int) -> int:
        """In an epoch."""
        return math.ceil(images / self.recipe.batch_size)

    def _epoch(self, resume: State | None, images: int) -> int:
        """The one, from 1, that a fit begins or goes on in."""
        return 1 if resume is None else resume["done"] // self._steps(images) + 1

    def _begin(self, step: Step, seed: int) -> _Fit:
        """Sets the weights that a fit begins with, in place."""
        recipe = self.recipe
        self.network.load_state_dict(build(recipe, self.classes, number_of(seed, "weights")).state_dict())
        if self._init is not None:
            self.network.load_state_dict(self._init, strict=False)
        elif isinstance(self.network, Residual):
            self.network.set_whitening(self._normalized(step.images[:WHITENING_IMAGES]))
        step.reset()
        self._fit = _Fit(
            seed=seed,
            epochs=max(recipe.epochs, math.ceil(recipe.least_steps / step.steps)),
            step=step,
            first_flips=augment.first_flips(len(step.images), _generator(seed, "first flips")),
        )
        return self._fit

    def _generators(self) -> list[torch.device]:
        """The devices, beside the CPU, whose global generators a fit borrows."""
        return [] if self.device.type == "cpu" else [self.device]

    def _draw(self, fit: _Fit) -> None:
        """Hands over the epoch that a fit is in. All batches are of equal size; what is left over waits for another."""
        recipe, steps, size = self.recipe, fit.step.steps, fit.step.size
        epoch, place = divmod(fit.done, steps)
        generator = _generator(fit.seed, "epoch", epoch)
        order = torch.randperm(len(fit.first_flips), generator=generator)
        flips = augment.flips(recipe, fit.first_flips, epoch, generator)
        chosen = order[: steps * size].view(steps, size)
        numbers = range(epoch * steps, (epoch + 1) * steps)
        shift = [augment.shifts(recipe.translate, size, _generator(fit.seed, "step", number)) for number in numbers]
        factor = torch.tensor([scale(recipe, number, fit.steps) for number in numbers])
        fit.step.draw(Drawn(chosen, flips[chosen], torch.stack(shift), factor), place)

    def _end_epoch(self, fit: _Fit, on_epoch: Callable[[Epoch], None] | None) -> None:
        begun = time.perf_counter()
        loss, accuracy = (fit.step.totals / fit.step.steps).tolist()  # a GPU is waited for here
        number, seconds = fit.done // fit.step.steps, fit.seconds + time.perf_counter() - begun
        if not math.isfinite(loss):
            raise Diverged(f"the loss is not finite in epoch {number}", "use another seed or another recipe")
        fit.step.totals.zero_()
        fit.seconds = 0.0
        if on_epoch is not None:
            on_epoch(Epoch(number, fit.epochs, loss, accuracy, seconds))

    # -- checkpoints

    def checkpoint(self) -> State:
        """Everything that fit(..., resume=...) needs, for torch.save; only while a fit calls back."""
        fit = self._fit
        assert fit is not None, "no fit is under way"
        step = fit.step
        return {
            "done": fit.done,
            "seconds": fit.seconds,
            "totals": step.totals,
            "network": self.network.state_dict(),
            "momenta": [optimizer.momenta for optimizer in step.optimizers],
            "average": step.average.state_dict() if step.average is not None else None,
        }

    def _restore(self, fit: _Fit, state: State) -> None:
        step = fit.step
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(step.optimizers, state["momenta"], strict=True):
            for momentum, value in zip(optimizer.momenta, saved, strict=True):
                momentum.copy_(value)
        if step.average is not None:
            step.average.load_state_dict(state["average"])
        step.totals.copy_(state["totals"])
        fit.done, fit.seconds = state["done"], state["seconds"]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, contiguous, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Weights to predict with. Raises InputError where they do not fit."""
        _check(state, self.network, ())
        self.network.load_state_dict(state)

    def take_init(self) -> None:
        """The weights to begin from, as they are, to predict with; a head of another shape stays fresh."""
        self.network.load_state_dict(self._init or {}, strict=False)

    # -- predict

    def predict(self, images: Tensor) -> Tensor:
        """Classes int64 [P] of uint8 [P,S,S,3], in evaluation mode; each depends on its own image only."""
        return self.scores(images).argmax(1)

    @refusing("an extractor")
    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, float32 [P,D] on the CPU, of uint8 [P,S,S,3]; each depends on its own image only.

        All batches have one shape, the last one padded; no statistics are taken of them.
        """
        size = self.recipe.predict_batch
        rows = list[Tensor]()
        with torch.inference_mode(), _deterministic():
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                padded = batch.new_zeros(size, *batch.shape[1:])
                padded[: len(batch)] = batch
                rows.append(self._last_inputs(self._normalized(padded.to(self.device)))[: len(batch)].cpu())
        return torch.cat(rows)

    @refusing("an extractor")
    def differentiable_features(self, grey_levels: Tensor) -> Tensor:
        """The same of float32 [B,3,S,S] from 0 to 255, as one batch on its device, for gradients to the images."""
        return self._last_inputs((grey_levels - self.mean) / self.std)

    @refusing("a network")
    def differentiable_logits(self, grey_levels: Tensor) -> Tensor:
        """float32 [B,classes] of float32 [B,3,S,S] from 0 to 255, in evaluation mode, for gradients to images and
        weights.
        """
        self.network.eval()
        inputs = (grey_levels - self.mean) / self.std
        return self._logits(inputs.contiguous(memory_format=torch.channels_last))

    def _last_inputs(self, inputs: Tensor) -> Tensor:
        """What the last layer reads, float32 [B,D], in evaluation mode."""
        seen = list[Tensor]()
        hook = self._head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        self.network.eval()
        try:
            self._logits(inputs.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        found = seen.pop().float()
        return found.mean((2, 3)) if found.dim() == 4 else found  # where a convolution is last

    @refusing("a model's prediction")
    def scores(self, images: Tensor) -> Tensor:
        """Probabilities float32 [P,classes] of uint8 [P,S,S,3], on the CPU."""
        size = self.recipe.predict_batch
        scores = torch.empty(len(images), self.classes)
        self.network.eval()
        with torch.inference_mode(), _deterministic():
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                padded = batch.new_zeros(size, *batch.shape[1:])
                padded[: len(batch)] = batch
                scores[start : start + size] = self._probabilities(padded.to(self.device))[: len(batch)].cpu()
        return scores

    def _probabilities(self, images: Tensor) -> Tensor:
        inputs = self._normalized(images).contiguous(memory_format=torch.channels_last)
        logits = self._logits(inputs)
        if self.recipe.mirror:
            logits = logits + self._logits(inputs.flip(3))
            logits = logits / 2
        return logits.softmax(1)

    def _logits(self, inputs: Tensor) -> Tensor:
        """float32 [B,classes]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.network(inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output[0]  # some have auxiliary outputs in training
        return logits.float()

    def _normalized(self, images: Tensor) -> Tensor:
        """float32 [N,3,S,S] from uint8 [N,S,S,3]."""
        return (images.permute(0, 3, 1, 2).float() - self.mean) / self.std


def _fitting(init: Mapping[str, Tensor], network: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The tensors of init that are taken: all, but for a head of another shape."""
    own = network.state_dict()
    of_head = {name for name, module in network.named_modules() if module is head}
    names = {f"{module}.{kind}" for module in of_head for kind in ("weight", "bias")}
    other = tuple(name for name in names if name in init and name in own and init[name].shape != own[name].shape)
    _check(init, network, tuple(names) if other else ())
    return {name: tensor for name, tensor in init.items() if not (other and name in names)}


def check_weights(weights: Mapping[str, Tensor], recipe: Recipe, classes: int) -> None:
    """That they are those of a recipe's network for so many classes, before it takes memory. Raises InputError."""
    _check(weights, outline(recipe, classes), ())


def _check(state: Mapping[str, Tensor], network: nn.Module, skipped: tuple[str, ...]) -> None:
    def shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Of all but the counters of batch norm, which older files lack and nothing here reads."""
        named = {name: tuple(tensor.shape) for name, tensor in weights.items() if name not in skipped}
        return {name: shape for name, shape in named.items() if not name.endswith(".num_batches_tracked")}

    own, given = shapes(network.state_dict()), shapes(state)
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            message = f"weights that do not fit the network: {name!r} is {given.get(name)}, {own.get(name)} is wanted"
            raise InputError(message.replace("None", "missing"), "give weights of the recipe's own network")


def number_of(seed: int, *purpose: str | int) -> int:
    """A 63-bit number for one purpose of one seed."""
    text = "/".join(("dpclean-train-1", str(seed), *map(str, purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _generator(seed: int, *purpose: str | int) -> Generator:
    return Generator().manual_seed(number_of(seed, *purpose))


@contextmanager
def _untrainable(images: int) -> Iterator[None]:
    """Too little for a network or its first layer, batch norm over one value say, ends a fit as a bad loss does."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise Diverged(
            f"{images} images cannot be trained on: {first_line(error)}", "give more of them, or another recipe"
        ) from error


@contextmanager
def _deterministic() -> Iterator[None]:
    """cuDNN without algorithms that add in another order each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
