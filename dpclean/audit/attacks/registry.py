"""The attacks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dpclean.audit.attacks.attack import Attack
from dpclean.audit.attacks.badnets import BadNets
from dpclean.audit.attacks.bullseye_polytope import BullseyePolytope
from dpclean.audit.attacks.convex_polytope import ConvexPolytope
from dpclean.audit.attacks.feature_collision import FeatureCollision
from dpclean.audit.attacks.gradient_matching import GradientMatching
from dpclean.audit.attacks.hidden_trigger import HiddenTrigger
from dpclean.audit.attacks.label_consistent import LabelConsistent
from dpclean.audit.attacks.narcissus import Narcissus
from dpclean.audit.attacks.sleeper_agent import SleeperAgent
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
            BadNets(),
        )
    }
)


def find_attack(name: str) -> Attack:
    """Raises UsageError, which lists what there is."""
    if name not in ATTACKS:
        raise UsageError(f"attack {name!r} is not known", f"give one of: {', '.join(ATTACKS)}")
    return ATTACKS[name]
