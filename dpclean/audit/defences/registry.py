"""The defences by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dpclean.audit.defences.defence import Defence
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.sanitized import Sanitized

DEFENCES: Mapping[str, type[Defence]] = MappingProxyType({kind.name: kind for kind in (Nothing, Sanitized)})
