"""Threat models: what an attacker is taken to change; a claim names the one that it holds under."""

from __future__ import annotations

from dataclasses import dataclass

from dpclean.errors import UsageError


@dataclass(frozen=True)
class Threat:
    """noises_points: test images are noised and denoised, and a radius covers them too.

    trains: each run trains a model on noised images, and a radius covers these; else one fixed model votes, and a
    radius covers the test image alone.
    """

    name: str
    noises_points: bool
    trains: bool = True


EVASION = "evasion"
THREATS = {
    threat.name: threat
    for threat in (Threat("clean-test", False), Threat("noised-test", True), Threat(EVASION, True, trains=False))
}
DEFAULT_THREAT = next(iter(THREATS))


def find_threat(name: str) -> Threat:
    """The threat model of a name. Raises UsageError."""
    if name not in THREATS:
        raise UsageError(f"threat {name!r} is not known", f"give one of: {', '.join(THREATS)}")
    return THREATS[name]
