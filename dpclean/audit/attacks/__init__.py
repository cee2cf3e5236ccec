"""Attacks by name: how each makes poisons, and the registry of all."""

from dpclean.audit.attacks.registry import ATTACKS as ATTACKS
from dpclean.audit.attacks.registry import find_attack as find_attack
