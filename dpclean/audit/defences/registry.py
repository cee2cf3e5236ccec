"""The defences by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dpclean.audit.defences.deep_knn import DeepKnn
from dpclean.audit.defences.defence import Defence
from dpclean.audit.defences.jpeg import Jpeg
from dpclean.audit.defences.noised import Noised
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.errors import UsageError

DEFENCES: Mapping[str, type[Defence]] = MappingProxyType(
    {kind.name: kind for kind in (Nothing, Sanitized, Noised, Jpeg, DeepKnn)}
)


def find_defences(names: str) -> list[type[Defence]]:
    """What a list with commas names, each once, and before all no defence. Raises UsageError."""
    wanted = [Nothing.name, *(name.strip() for name in names.split(","))]
    for name in wanted:
        if name not in DEFENCES:
            raise UsageError(f"defence {name!r} is not known", f"give some of: {', '.join(DEFENCES)}")
    return [DEFENCES[name] for name in dict.fromkeys(wanted)]
