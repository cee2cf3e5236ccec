"""A network that learns from images as an attacker would change them: what he has put there already moves it less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.victims.scratch import Scratch, Training
from dpclean.audit.victims.victim import Learner, Seen
from dpclean.data.dataset import Images
from dpclean.errors import UsageError
from dpclean.train.recipes import Recipe
from dpclean.train.trainer import Trainer

STEPS, REACH = 3, 2.5  # of the inner attack, and how often they together go through the bound


class Changed:
    """Normalized images [B,3,S,S] to others within eps grey levels that the network gets wrong more, by projected
    gradient descent from a random beginning.
    """

    def __init__(self, recipe: Recipe, eps: int, device: torch.device) -> None:
        mean, std = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (recipe.mean, recipe.std))
        self._eps, self._least, self._most = eps / 255 / std, -mean / std, (1 - mean) / std

    def __call__(self, inputs: Tensor, truth: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        change = self._eps * (2 * torch.rand_like(inputs) - 1)
        for _ in range(STEPS):
            leaf = self._kept(inputs + change).requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(logits(leaf), truth), leaf)
            stepped = change + REACH / STEPS * self._eps * slope.sign()
            change = torch.minimum(torch.maximum(stepped, -self._eps), self._eps)
        return self._kept(inputs + change)

    def _kept(self, inputs: Tensor) -> Tensor:
        """Within what grey levels there are."""
        return torch.minimum(torch.maximum(inputs, self._least), self._most).detach()


class Hardened(Training):
    """The same recipe on images that are changed anew in every step."""

    def __init__(self, victim: Scratch, eps: int) -> None:
        super().__init__(victim.recipe, victim.classes, victim.size, victim.device, victim.training.init)
        self._eps = eps
        self.about = f"{victim.training.about}, each step on images changed by up to {eps} grey levels against it"

    @cached_property
    def _trainer(self) -> Trainer:
        changed = Changed(self.recipe, self._eps, self._device)
        return Trainer(
            self.recipe, self._classes, size=self._size, device=self._device, init=self.init, changed=changed
        )


class AdversarialTraining(Defence):
    name = "adversarial-training"
    takes = "EPS"
    paper = (
        "Geiping et al. 2021, 'What Doesn't Kill You Makes You Robust(er): How to Adversarially Train against Data"
        " Poisoning'; Madry et al. 2018, 'Towards Deep Learning Models Resistant to Adversarial Attacks'"
    )
    about = (
        f"each step of a victim that learns all weights sees images that {STEPS} steps of projected gradient descent"
        " have changed by up to EPS grey levels"
    )
    scratch_only = True

    def __init__(self, eps: int, victim: Scratch) -> None:
        self._eps, self._victim = eps, victim

    @property
    def label(self) -> str:
        return f"{self.name}:{self._eps}"

    @classmethod
    def check(cls, argument: str) -> None:
        if not (argument.isascii() and argument.isdecimal() and len(argument) < 4 and 0 < int(argument) < 256):
            raise UsageError(
                f"defence {cls.name!r} takes a number of grey levels from 1 to 255, got {argument!r}",
                f"give it as {cls.name}:8",
            )

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        victim = setting.victim
        if not isinstance(victim, Scratch):
            raise UsageError(
                f"defence {cls.name!r} is of networks that learn all their weights from the images", "leave it out"
            )
        return [cls(int(argument), victim)]

    def learners(self, images: Images) -> Sequence[Learner]:
        return [Hardened(self._victim, self._eps)]

    def seconds(self, images: Images, seen: Seen) -> float:
        """A step of the attack takes about as long as a step of learning."""
        return STEPS * self._victim.seconds(seen, images.labels, len(images.classes))
