"""One step of a fit over tensors that stay where they are: a CUDA card repeats it without the host."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.train import augment
from dpclean.train.optimizers import make_optimizers
from dpclean.train.recipes import Recipe

Changed = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]
WARM = 3  # steps before the capture, in which libraries set up what must not be captured


@dataclass(frozen=True)
class Drawn:
    """What an epoch's steps, of B images each, take: everything that is drawn or scheduled, on the CPU."""

    chosen: Tensor  # int64 [steps,B]: places of images
    flip: Tensor  # bool [steps,B]
    shift: Tensor  # int64 [steps,2,B]
    factor: Tensor  # float32 [steps]: on every learning rate


class Step:
    """Images, labels, an epoch's draws, network, optimizers and sums: one call does the next step of the epoch.

    images: uint8 [N,S,S,3]; labels: int64 [N]; normalized and logits: the trainer's. With replay the step is captured
    as one CUDA graph and replayed: the same kernels on the same addresses, without a launch for each. Whoever begins a
    fit sets the network's weights in place and calls reset. See PyTorch's notes on CUDA semantics, "CUDA Graphs".
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        head: nn.Module,
        images: Tensor,
        labels: Tensor,
        steps: int,
        normalized: Callable[[Tensor], Tensor],
        logits: Callable[[Tensor], Tensor],
        *,
        replay: bool,
        changed: Changed | None = None,
    ) -> None:
        device, size = images.device, len(images) // steps
        self.recipe, self.network, self.images, self.labels = recipe, network, images, labels
        self.steps, self.size = steps, size
        self.optimizers = make_optimizers(network, head, recipe)
        self.average = copy.deepcopy(network) if recipe.average else None
        self.totals = torch.zeros(2, device=device)  # sums of the steps' loss and accuracy
        self._normalized, self._logits, self._changed = normalized, logits, changed
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step in the epoch
        self._drawn = Drawn(
            torch.zeros(steps, size, dtype=torch.int64, device=device),
            torch.zeros(steps, size, dtype=torch.bool, device=device),
            torch.zeros(steps, 2, size, dtype=torch.int64, device=device),
            torch.zeros(steps, device=device),
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        if replay:
            self._capture()

    def reset(self) -> None:
        """Forgets the fit before: momenta, sums, and the average, which begins at the network's weights."""
        for optimizer in self.optimizers:
            for momentum in optimizer.momenta:
                momentum.zero_()
        self.totals.zero_()
        if self.average is not None:
            self.average.load_state_dict(self.network.state_dict())

    def draw(self, drawn: Drawn, place: int) -> None:
        """The epoch to be done, from a step on."""
        for name in ("chosen", "flip", "shift", "factor"):
            there, here = getattr(self._drawn, name), getattr(drawn, name)
            there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)
        self._place.fill_(place)

    def __call__(self) -> None:
        if self._graph is None:
            self._do()
        else:
            self._graph.replay()

    def _do(self) -> None:
        recipe, drawn = self.recipe, self._drawn
        chosen, flip, shift, factor = (
            table.index_select(0, self._place)[0] for table in (drawn.chosen, drawn.flip, drawn.shift, drawn.factor)
        )
        inputs = self._normalized(self.images[chosen])
        inputs = augment.augmented(inputs, flip, recipe.translate, shift)
        truth = self.labels[chosen]
        if self._changed is not None:
            self.network.eval()
            inputs = self._changed(inputs, truth, self._logits)
        self.network.train(not recipe.freeze)
        logits = self._logits(inputs)
        loss = functional.cross_entropy(logits, truth, label_smoothing=recipe.label_smoothing)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step(factor)
        self.network.zero_grad()
        if self.average is not None:
            _blend(self.average, self.network, recipe.average)
        self.totals += torch.stack((loss.detach(), (logits.argmax(1) == truth).float().mean()))
        self._place += 1

    def _capture(self) -> None:
        device = self.images.device
        with torch.cuda.device(device):
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM):
                    self._place.zero_()
                    self._do()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._do()
        self._graph = graph


@torch.no_grad()
def _blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, tensor in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(tensor, 1 - decay)
        else:
            mean.copy_(tensor)
