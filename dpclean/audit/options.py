"""What `audit` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dpclean.audit.attacks import ATTACKS, find_attack
from dpclean.audit.attacks.attack import Attack
from dpclean.audit.attacks.guided_diffusion import GuidedDiffusion
from dpclean.audit.defences import find_defences
from dpclean.audit.defences.defence import Defence
from dpclean.audit.victims.commanded import OPTION as TRAINER_OPTION
from dpclean.audit.victims.fine_tuned import FINE_TUNED
from dpclean.audit.victims.frozen import FROZEN
from dpclean.audit.victims.scratch import SCRATCH
from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_holdout, check_ranges, check_seed
from dpclean.jobs.command import Command
from dpclean.noise import SIGMA_MAX
from dpclean.threads import check_threads
from dpclean.train.recipes import find_recipe


class AuditKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in AuditOptions, which checks them."""

    victim: str
    extractor: str | os.PathLike[str] | None
    weights: str | os.PathLike[str] | None
    trainer: str | None
    surrogate: str | os.PathLike[str] | None
    surrogate_weights: str | os.PathLike[str] | None
    test: str | os.PathLike[str] | None
    holdout: float | None
    attack: str
    adaptive: bool
    eps: int
    poisons: int
    targets: int
    setups: str | os.PathLike[str] | None
    generator: str | os.PathLike[str] | None
    poisons_from: str | os.PathLike[str] | None
    defence: str | Sequence[str]
    sigma: str
    denoiser: str | os.PathLike[str]
    method: str
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


class DefenceOptions:
    """What the options of either kind of audit say of defences, read."""

    defence: str | tuple[str, ...]
    sigma: str

    @property
    def defences(self) -> tuple[str, ...]:
        """The texts that name them."""
        return (self.defence,) if isinstance(self.defence, str) else self.defence

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels to defend with, in order, each once. Raises UsageError."""
        found = []
        for text in self.sigma.split(","):
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not 0 < value <= SIGMA_MAX:
                raise UsageError(
                    f"sigma must be above 0 and at most {SIGMA_MAX:g} on the [0, 1] pixel scale, got {text.strip()!r}",
                    "give noise levels with commas between them, as in 0.1,0.25; the row without noise is always there",
                )
            found.append(value)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class AuditOptions(DefenceOptions):
    """The options of `audit`; names and defaults are those of the command line. Raises UsageError.

    victim: "frozen", "fine-tuned", or the name of a recipe. trainer: a command that is the victim in place of these.
    surrogate: the attacker's network, named as the victim's is, where it is another one. eps: in grey levels. defence:
    names, with commas between them, or a command; or several such texts. sigma: noise levels on the [0, 1] pixel scale,
    with commas between them.
    """

    victim: str = FROZEN
    extractor: str | None = None
    weights: Path | None = None
    trainer: str | None = None
    surrogate: str | None = None
    surrogate_weights: Path | None = None
    test: Path | None = None
    holdout: float | None = None
    attack: str = "bullseye-polytope"
    adaptive: bool = False
    eps: int = 16
    poisons: int = 25
    targets: int = 20
    setups: Path | None = None
    generator: Path | None = None
    poisons_from: Path | None = None
    defence: str | tuple[str, ...] = "sanitized"
    sigma: str = "0.1,0.25"
    denoiser: str = "natural"
    method: str = "one-step"
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check_victim()
        self._check_attack()
        self._check_defences()
        find_method(self.method)
        check_holdout(self.holdout, self.test)
        check_ranges(eps=self.eps, poisons=self.poisons, targets=self.targets, workers=self.workers)
        check_seed(self.seed)
        check_threads(self.threads)
        _ = self.sigmas

    def _check_victim(self) -> None:
        if self.surrogate_weights is not None and self.surrogate is None:
            raise UsageError(
                "--surrogate-weights are those of --surrogate, which is not given", "give both, or neither"
            )
        if self.trainer is not None:
            self._check_trainer(self.trainer)
            return
        if self.begins_with_network:
            if self.extractor is None:
                raise UsageError(
                    "missing option '--extractor'",
                    "give a model of 'dpclean train' on other images, torchvision:NAME with --weights FILE,"
                    " or efficientnet-lite0; or a victim that needs none, as in --victim tiny",
                )
            return
        try:
            find_recipe(self.victim)
        except UsageError as error:
            message = f"victim {self.victim!r} is neither {FROZEN!r}, {FINE_TUNED!r} nor a recipe: {error.message}"
            raise UsageError(message, error.remedy) from error
        if self.surrogate is not None:
            _check_recipe_of_attacker(self.surrogate, self.surrogate_weights, self.victim)
        if self.extractor is not None or self.weights is not None:
            raise UsageError(
                f"the victim {self.victim!r} learns all its weights and takes no extractor",
                "leave --extractor and --weights out, or --victim",
            )

    def _check_trainer(self, trainer: str) -> None:
        Command(trainer, TRAINER_OPTION).check("data", "test", "out")
        if self.victim != FROZEN or self.extractor is not None or self.weights is not None:
            raise UsageError(
                "--trainer is the victim: --victim, --extractor and --weights have no meaning with it",
                "leave them out; the attacker's network is --surrogate",
            )
        if self.surrogate is None and self.poisons_from is None and find_attack(self.attack).has_gradients:
            raise UsageError(
                "an attacker cannot look into a program, and --surrogate, a network of his own, is missing",
                "give a recipe that he trains, as in --surrogate tiny, or an extractor for attacks on features",
            )

    def _check_defences(self) -> None:
        defences = find_defences(self.defences)
        if self.adaptive and all(asked.kind.seen_through is Defence.seen_through for asked in defences):
            raise UsageError(
                "--adaptive tries attackers who see through a defence, and none of these is one that they can",
                "give sanitized among them, or leave --adaptive out",
            )
        for asked in defences:
            kind = asked.kind
            if self.trainer is not None and (kind.frozen_only or kind.scratch_only or kind.looks_inside):
                raise UsageError(
                    f"defence {kind.name!r} needs the victim's network, and a program shows none",
                    "give a victim of dpclean in place of --trainer, or another defence",
                )
            if asked.kind.frozen_only and self.victim != FROZEN:
                raise UsageError(
                    f"defence {asked.kind.name!r} is of heads on frozen features, which {self.victim!r} does not have",
                    "give --extractor in place of --victim, or another defence",
                )
            if asked.kind.scratch_only and self.victim == FROZEN:
                raise UsageError(
                    f"defence {asked.kind.name!r} is of networks that learn all their weights, and a frozen victim"
                    " learns its head alone",
                    "give a victim that learns from scratch, as in --victim tiny, or another defence",
                )

    def _check_attack(self) -> None:
        if self.poisons_from is not None:
            if self.adaptive or any(one is not None for one in (self.setups, self.surrogate, self.generator)):
                raise UsageError(
                    "--poisons-from brings poisons and their targets: --adaptive and --setups have no meaning with it,"
                    " nor have --surrogate and --generator",
                    "leave them out",
                )
            return
        attack = self.found_attack
        self._check_generator(attack)
        if attack.has_trigger and self.setups is not None:
            raise UsageError(
                f"--setups names targets, and {attack.name} has a trigger in place of them",
                "leave --setups out, or give another attack",
            )
        if self.adaptive and not attack.has_gradients:
            raise UsageError(
                f"{attack.name} follows no gradient, so there is nothing in it to adapt to a defence",
                "leave --adaptive out",
            )
        if self.victim == FINE_TUNED or not attack.has_gradients:  # it has features, and learns all weights: all fit
            return
        kind = self._kind
        if kind in attack.victims:
            return
        fitting = ", ".join(one.name for one in ATTACKS.values() if kind in one.victims)
        if self.trainer is not None:
            raise UsageError(
                f"{attack.name} cannot be crafted with the surrogate {self.surrogate!r}",
                "give an extractor for attacks on features, a recipe for those on all weights; or one of the attacks"
                f" {fitting}",
            )
        if kind == FROZEN:
            raise UsageError(
                f"{attack.name} works by what all weights learn, and a frozen victim learns its head alone",
                f"give a victim that learns all, as in --victim fine-tuned or tiny, or one of the attacks {fitting}",
            )
        raise UsageError(
            f"{attack.name} works by the features of a frozen network, and the victim {self.victim!r} learns them anew",
            f"give --extractor in place of --victim, or one of the attacks {fitting}",
        )

    def _check_generator(self, attack: Attack) -> None:
        if isinstance(attack, GuidedDiffusion) == (self.generator is not None):
            return
        if self.generator is None:
            raise UsageError(
                "missing option '--generator'",
                f"{attack.name} takes a class-conditional UNet2DModel that makes images like those of RAW: give its"
                " diffusers folder",
            )
        raise UsageError(
            f"{attack.name} makes its poisons of images of RAW and takes no generator",
            f"leave --generator out, or give --attack {GuidedDiffusion.name}",
        )

    @property
    def _kind(self) -> str:
        """Of victims that the attacker makes his poisons for, by which attacks say what they are made for."""
        return FROZEN if self.attacker_begins_with_network else SCRATCH

    @property
    def found_attack(self) -> Attack:
        return find_attack(self.attack, self._kind)

    @property
    def begins_with_network(self) -> bool:
        """Whether the victim has a network before it learns, the extractor."""
        return self.trainer is None and self.victim in (FROZEN, FINE_TUNED)

    @property
    def attacker_begins_with_network(self) -> bool:
        """The same of what the attacker takes the victim for."""
        if self.trainer is None or self.surrogate is None:
            return self.begins_with_network
        return self.surrogate_weights is not None or not _is_recipe(str(self.surrogate))


def _is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except UsageError:
        return False
    return True


def _check_recipe_of_attacker(name: str, weights: Path | None, victim: str) -> None:
    try:
        find_recipe(name)
    except UsageError as error:
        raise UsageError(
            f"the victim {victim!r} learns from scratch, and so does the attacker's network: {error.message}",
            error.remedy,
        ) from error
    if weights is not None:
        raise UsageError(
            f"surrogate {name!r} learns from scratch and takes no weights", "leave --surrogate-weights out"
        )
