"""Poisons whose gradient, of all weights, points where that of what the attacker wants does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpclean.audit.attacks.attack import Case, Objective
from dpclean.audit.attacks.perturbation import Perturbation, finite
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.train import augment
from dpclean.train.networks import Residual

STEPS = 50  # of a round
RATE, FALLS = 0.4, (3 / 8, 5 / 8, 7 / 8)  # of eps, the first steps of a round; after these shares of them a tenth each


def match_in_rounds(
    case: Case, surrogate: Surrogate, asked: Tensor, *, together: bool, most_steps: int, on_step: Callable[[], None]
) -> tuple[list[NDArray[np.uint8]], int]:
    """Poisons [H,W,C] that match the gradients of asked images, grey levels [N,C,H,W], and the steps that were taken.

    After each round the attacker trains one more network as a victim of his poisons would (Souri et al. 2022), as what
    matches only before they are learned may do nothing then. together: whether he goes on with all of them (Geiping et
    al. 2021 match in up to four at once) or with the newest alone.
    """
    generator = torch.Generator().manual_seed(case.seed)
    changed = Perturbation(case.bases, case.eps, surrogate.device)
    changed.scatter(generator)
    rounds = max(1, most_steps // STEPS)
    steps, within = most_steps // rounds, [surrogate]
    for number in range(rounds):
        if number:
            newest = surrogate.poisoned(case.places, changed.pixels(), number)
            within = [*within, newest] if together else [newest]
        match(changed, within, asked, case.poison_class, steps=steps, generator=generator, on_step=on_step)
    return changed.pixels(), rounds * steps


def match(
    changed: Perturbation,
    surrogates: Sequence[Surrogate],
    asked: Tensor,
    label: int,
    *,
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> None:
    """Change images until learning them as of a class does what learning that the asked ones are of it would do.

    asked: grey levels [N,C,H,W]. By Adam on the signs of gradients, through the augmentation of the victim's recipe, in
    each step in another of the networks.
    """
    optimizer = torch.optim.Adam(changed.changes, lr=RATE * changed.eps)
    falling = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(share * steps) for share in FALLS])
    with ExitStack() as stack:
        learning = [stack.enter_context(weights_of(surrogate)) for surrogate in surrogates]
        networks = list(zip(surrogates, learning, strict=True))
        wanted = [_wanted(surrogate, weights, asked, label) for surrogate, weights in networks]
        for step in range(steps):
            surrogate, weights = networks[step % len(networks)]
            levels = _augmented(changed.seen_by(surrogate.levels), surrogate, generator)
            loss = mismatch(gradient(surrogate, weights, levels, label), wanted[step % len(networks)])
            slopes = torch.autograd.grad(loss, changed.changes)
            for change, slope in zip(changed.changes, slopes, strict=True):
                change.grad = finite(slope).sign()
            optimizer.step()
            falling.step()
            changed.clip()
            on_step()


def matching(surrogate: Surrogate, asked: Tensor, label: int) -> Objective:
    """The loss of `match` as a function of the poisons, without augmentation. asked: grey levels [N,C,H,W]."""
    with weights_of(surrogate) as weights:
        wanted = _wanted(surrogate, weights, asked, label)

    def of(levels: Tensor, places: Sequence[int]) -> Tensor:
        with weights_of(surrogate) as weights:
            return mismatch(gradient(surrogate, weights, surrogate.levels(levels, places), label), wanted)

    return of


@contextmanager
def weights_of(surrogate: Surrogate) -> Iterator[list[nn.Parameter]]:
    """What of the network a victim learns, for gradients."""
    network = surrogate.extractor.trainer.network
    fixed = (network.whiten.weight,) if isinstance(network, Residual) else ()
    without = {id(parameter) for parameter in fixed}
    learning = [parameter for parameter in network.parameters() if id(parameter) not in without]
    for parameter in learning:
        parameter.requires_grad_(True)
    try:
        yield learning
    finally:
        for parameter in learning:
            parameter.requires_grad_(False)


def gradient(surrogate: Surrogate, weights: Sequence[nn.Parameter], levels: Tensor, label: int) -> Sequence[Tensor]:
    """Of the mean loss of images, grey levels [N,3,S,S], as of this class: one tensor for each of the weights."""
    logits = surrogate.extractor.trainer.differentiable_logits(levels)
    truth = torch.full((len(levels),), label, device=logits.device)
    loss = functional.cross_entropy(logits, truth)
    return torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True, materialize_grads=True)


def _wanted(surrogate: Surrogate, weights: Sequence[nn.Parameter], asked: Tensor, label: int) -> list[Tensor]:
    return [part.detach() for part in gradient(surrogate, weights, surrogate.extractor.brought_to_size(asked), label)]


def mismatch(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """1 less the cosine between two gradients, each in parts."""

    def product(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        return torch.stack([(one * other).sum() for one, other in zip(some, others, strict=True)]).sum()

    lengths = (product(found, found) * product(wanted, wanted)).sqrt()
    return 1 - product(found, wanted) / lengths.clamp(min=1e-20)


def _augmented(levels: Tensor, surrogate: Surrogate, generator: torch.Generator) -> Tensor:
    """As the recipe does it, drawn anew."""
    recipe = surrogate.extractor.trainer.recipe
    flip = torch.rand(len(levels), generator=generator) < (0 if recipe.flip == "none" else 0.5)
    shift = augment.shifts(recipe.translate, len(levels), generator)
    return augment.augmented(levels, flip.to(levels.device), recipe.translate, shift.to(levels.device))
