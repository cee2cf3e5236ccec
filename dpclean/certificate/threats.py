"""Threat models: what an attacker is taken to change; a claim names the one that it holds under."""

from __future__ import annotations

from dataclasses import dataclass

from dpclean.errors import UsageError


@dataclass(frozen=True)
class Threat:
    """noises_points: test images are noised and denoised like training images, and a radius covers both together."""

    name: str
    noises_points: bool


THREATS = {threat.name: threat for threat in (Threat("clean-test", False), Threat("noised-test", True))}
DEFAULT_THREAT = next(iter(THREATS))


def find_threat(name: str) -> Threat:
    """The threat model of a name. Raises UsageError."""
    if name not in THREATS:
        raise UsageError(f"threat {name!r} is not known", f"give one of: {', '.join(THREATS)}")
    return THREATS[name]
