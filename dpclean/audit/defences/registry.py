"""The defences by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dpclean.audit.defences.adversarial_training import AdversarialTraining
from dpclean.audit.defences.command import Filter
from dpclean.audit.defences.deep_knn import DeepKnn
from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.defences.dp_sgd import DpSgd
from dpclean.audit.defences.friends import Friends
from dpclean.audit.defences.jpeg import Jpeg
from dpclean.audit.defences.noised import Noised
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.defences.spectral import Spectral
from dpclean.audit.defences.votes import Partitions, Subsample
from dpclean.errors import UsageError

DEFENCES: Mapping[str, type[Defence]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Nothing,
            Sanitized,
            Noised,
            Jpeg,
            DeepKnn,
            Spectral,
            Friends,
            AdversarialTraining,
            DpSgd,
            Subsample,
            Partitions,
            Filter,
        )
    }
)


@dataclass(frozen=True)
class Asked:
    """A defence as it was asked for. argument: what stands behind its name, or the whole text of a command."""

    kind: type[Defence]
    argument: str = ""

    def made(self, setting: Setting) -> Sequence[Defence]:
        return self.kind.made(setting, self.argument)


def find_defences(texts: Sequence[str]) -> list[Asked]:
    """What texts name, each once, and before all no defence. Each text is names with commas between them, some with
    a colon and something behind it, or a command, which is known by its braces. Raises UsageError.
    """
    found = [Asked(Nothing)]
    for text in texts:
        found += [Asked(Filter, text)] if "{" in text else map(_named, text.split(","))
    for asked in found:
        asked.kind.check(asked.argument)
    return list(dict.fromkeys(found))


def make_defences(texts: Sequence[str], setting: Setting) -> list[Defence]:
    """All that texts name, made. Raises UsageError where tables could not tell two apart, and what making them does."""
    made = [one for asked in find_defences(texts) for one in asked.made(setting)]
    labels = [one.label for one in made]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise UsageError(
            f"two of the defences would both be called {twice[0]!r}",
            "leave one of them out; noise levels must differ within six digits",
        )
    return made


def _named(text: str) -> Asked:
    name, _, argument = text.strip().partition(":")
    if name not in DEFENCES:
        known = [kind.asked_as() for kind in DEFENCES.values()]
        raise UsageError(f"defence {name!r} is not known", f"give some of: {', '.join(known)}")
    return Asked(DEFENCES[name], argument)
