"""A command that is quick to refuse the usual mistakes."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

from typer.core import TyperCommand

from dpclean.errors import UsageError

_WORD = re.compile("[a-z0-9-]+")


class Command(TyperCommand):
    """A command that refuses what is missing, and values that do not parse, before typer converts any value.

    Typer converts with a library that takes longer to import than all that a refusal needs.
    """

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        given, _, _ = self.make_parser(context).parse_args(args=list(arguments))
        if not given.get("help") and not context.resilient_parsing:
            self._check({p.name: p.consume_value(context, given)[0] for p in self.params}, context.command_path)
        return super().parse_args(context, arguments)

    def _check(self, found: dict[str, Any], path: str) -> None:
        """Raises UsageError. The values are as the command line, the environment or the defaults give them."""
        assert self.callback is not None
        hints = get_type_hints(self.callback, include_extras=True)
        for parameter in self.params:
            value, shown = found[parameter.name], max(parameter.opts, key=len)
            if value is None and parameter.required and not found.get("config"):
                raise UsageError(
                    f"missing {parameter.param_type_name} {shown!r}", f"'{path} --help' shows what it takes"
                )
            if isinstance(value, str):
                _parse(hints[parameter.name], shown.lstrip("-"), value)


def _parse(hint: Any, shown: str, value: str) -> None:
    kind, (declared,) = hint.__origin__, hint.__metadata__
    choices = (declared.metavar or "").split("|")
    if declared.parser is not None:
        declared.parser(value)
    elif len(choices) > 1 and all(map(_WORD.fullmatch, choices)):  # as in --format png|webp|same
        if value not in choices:
            raise UsageError(f"{shown} {value!r} is not known", f"give one of: {', '.join(choices)}")
    elif {int, float} & set(get_args(kind) or (kind,)):
        try:
            float(value)
        except ValueError as error:
            raise UsageError(f"{shown} must be a number, got {value!r}", "give a number, or leave it out") from error
