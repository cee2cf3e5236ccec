"""A bound whose search claims twice what its own check lets pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dpclean.certificate.bounds.base import Claim, ClaimSettings, Moved, Proof
from dpclean.certificate.bounds.union import Union


class Reckless(Union):
    name = "reckless"
    sentence = "as union, and twice as far"

    def claim(
        self, settings: ClaimSettings, k_a: int, k_b: int, published: Sequence[Proof] | None = None
    ) -> Claim | None:
        claim = super().claim(settings, k_a, k_b, published)
        return None if claim is None else replace(claim, moved=Moved(2 * claim.radius))


BOUND = Reckless()
