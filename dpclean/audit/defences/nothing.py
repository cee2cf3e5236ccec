"""No defence: what the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from dpclean.audit.defences.defence import Defence, Setting


class Nothing(Defence):
    name = "none"
    paper = ""
    about = "the images as they are"

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls()]
