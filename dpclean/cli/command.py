"""A command: what all of them have in common beside their options."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.core import TyperCommand

from dpclean.cli import values
from dpclean.cli.panels import COMMON
from dpclean.errors import UsageError
from dpclean.jobs.checks import given_path
from dpclean.jobs.staging import mend

# what every command takes alike may be set for all of them together: DPCLEAN_DEVICE beside DPCLEAN_SANITIZE_DEVICE
FOR_ALL = ("json", "quiet", "config", "device", "dtype", "threads")
_WORD = re.compile("[a-z0-9-]+")


class Command(TyperCommand):
    """A command that takes options from the environment and a file, and refuses the usual mistakes quickly.

    Its variables are named by the command, DPCLEAN_SANITIZE_SIGMA. It refuses what is missing, and values that do not
    parse, before typer converts any: typer does that with a library that takes longer to import than a refusal needs.
    The options of its help stand in sections.
    """

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        prefix = "_".join(_words(context)).upper()
        parameter: Any
        for parameter in self.params:
            name = parameter.name.upper()
            parameter.envvar = [f"{prefix}_{name}", *([f"DPCLEAN_{name}"] if parameter.name in FOR_ALL else [])]
            parameter.show_envvar = False
        if not context.resilient_parsing:
            self._check(context, arguments)
        rest = super().parse_args(context, arguments)
        for name, value in context.params.items():
            if isinstance(value, Path):
                context.params[name] = given_path(value)
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Path):
                context.params[name] = [given_path(path) for path in value]
        if not context.resilient_parsing:
            self._mend(context)
        return rest

    def _mend(self, context: Any) -> None:
        """Whatever the command is to read or to make: what a kill left half replaced is whole before it looks."""
        for value in context.params.values():
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, str | Path):
                    mend(each)

    def _check(self, context: Any, arguments: list[str]) -> None:
        """Raises UsageError. The values are as the command line, the environment, the file or the defaults give them.

        Where --json is found, the error is told as --json tells it.
        """
        by_name = {parameter.name: parameter for parameter in self.params}
        context.obj["json"] |= values.is_on(by_name["json"].resolve_envvar_value(context))
        given, _, _ = self.make_parser(context).parse_args(args=list(arguments))
        if given.get("help"):
            return
        if (file := by_name["config"].consume_value(context, given)[0]) is not None:
            values.read_config(context, given_path(file), _words(context)[1:])
        found = {name: parameter.consume_value(context, given)[0] for name, parameter in by_name.items()}
        context.obj["json"] |= values.is_on(found["json"])
        assert self.callback is not None
        hints = get_type_hints(self.callback, include_extras=True)
        for name, parameter in by_name.items():
            value, shown = found[name], max(parameter.opts, key=len)
            if value is None and parameter.required:
                raise UsageError(
                    f"missing {parameter.param_type_name} {shown!r}",
                    f"'{context.command_path} --help' shows what it takes",
                )
            if isinstance(value, str):
                _parse(hints[name], shown.lstrip("-"), value)
            self._tell_of_old_variable(context, name)

    def _tell_of_old_variable(self, context: Any, name: str) -> None:
        old = f"DPCLEAN_{name.upper()}"
        if name not in FOR_ALL and old in os.environ:
            own = f"{'_'.join(_words(context))}_{name}".upper()
            sys.stderr.write(f"dpclean: {old} is not read: it could be meant for any command; set {own} instead\n")

    def format_options(self, context: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            if record := parameter.get_help_record(context):
                kind = "Arguments" if parameter.param_type_name == "argument" else COMMON
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, context: Any, formatter: Any) -> None:
        words = _words(context)
        names = [name for parameter in self.params for name in parameter.opts if name.startswith("--")]
        shown = "--out" if "--out" in names else names[0]
        variable = "_".join((*words, shown.strip("-").replace("-", "_"))).upper()
        formatter.write_paragraph()
        formatter.write_text(
            f"Every option can come from the environment too, named as {variable} is for {shown}, or"
            f" from the table [{'.'.join(words[1:])}] of the file that --config names."
        )


def _words(context: Any) -> list[str]:
    """The words of a command with its options left out: dpclean, denoiser, fit."""
    parts: list[str] = context.command_path.split()
    return [word for word in parts if _WORD.fullmatch(word)]


def _choices(parameter: Any) -> list[str]:
    """The values of an option that is declared as --format png|webp|same."""
    choices = (parameter.metavar or "").split("|")
    return choices if len(choices) > 1 and all(map(_WORD.fullmatch, choices)) else []


def _parse(hint: Any, shown: str, value: str) -> None:
    kind, (declared,) = hint.__origin__, hint.__metadata__
    if declared.parser is not None:
        declared.parser(value)
    elif choices := _choices(declared):
        if value not in choices:
            raise UsageError(f"{shown} {value!r} is not known", f"give one of: {', '.join(choices)}")
    elif {int, float} & set(get_args(kind) or (kind,)):
        try:
            float(value)
        except ValueError as error:
            raise UsageError(f"{shown} must be a number, got {value!r}", "give a number, or leave it out") from error
