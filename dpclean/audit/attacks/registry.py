"""The attacks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dpclean.audit.attacks.attack import Attack, Following
from dpclean.audit.attacks.badnets import BadNets
from dpclean.audit.attacks.bullseye_polytope import BullseyePolytope
from dpclean.audit.attacks.convex_polytope import ConvexPolytope
from dpclean.audit.attacks.feature_collision import FeatureCollision
from dpclean.audit.attacks.gradient_matching import GradientMatching
from dpclean.audit.attacks.guided_diffusion import GuidedDiffusion
from dpclean.audit.attacks.hidden_trigger import HiddenTrigger
from dpclean.audit.attacks.label_consistent import LabelConsistent
from dpclean.audit.attacks.narcissus import Narcissus
from dpclean.audit.attacks.sleeper_agent import SleeperAgent
from dpclean.audit.victims.frozen import FROZEN
from dpclean.errors import UsageError

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        attack.name: attack
        for attack in (
            BullseyePolytope(),
            ConvexPolytope(),
            FeatureCollision(),
            HiddenTrigger(),
            LabelConsistent(),
            GradientMatching(),
            SleeperAgent(),
            Narcissus(),
            GuidedDiffusion(),
            BadNets(),
        )
    }
)


def find_attack(name: str, victim: str = FROZEN) -> Attack:
    """victim: the kind of it, for an attack that follows another one and is not told which. Raises UsageError, which
    lists what there is.
    """
    base, colon, inner = name.partition(":")
    if base == GuidedDiffusion.name:
        return _guided(inner, victim) if colon else _guided(_followed(victim)[0], victim)
    if name not in ATTACKS:
        raise UsageError(f"attack {name!r} is not known", f"give one of: {', '.join(ATTACKS)}")
    return ATTACKS[name]


def _guided(name: str, victim: str) -> Attack:
    attack = ATTACKS.get(name)
    if not isinstance(attack, Following):
        raise UsageError(
            f"{GuidedDiffusion.name} follows the objective of another attack, and {name!r} has none to follow",
            f"give one of: {', '.join(f'{GuidedDiffusion.name}:{one}' for one in _followed(victim))}",
        )
    return GuidedDiffusion(attack)


def _followed(victim: str) -> list[str]:
    """The attacks on victims of a kind that others can follow."""
    return [name for name, one in ATTACKS.items() if isinstance(one, Following) and victim in one.victims]
