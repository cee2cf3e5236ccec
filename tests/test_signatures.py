"""The functions behind the commands: every option is a keyword with a name and a type, which an editor can tell."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints, is_typeddict

import pytest

import dpclean.audit.evasion.job
import dpclean.audit.evasion.options
import dpclean.audit.job
import dpclean.audit.options
import dpclean.certificate.plan
import dpclean.certify.dry_run
import dpclean.certify.external_votes
import dpclean.certify.job
import dpclean.certify.options
import dpclean.classifier_training.job
import dpclean.classifier_training.options
import dpclean.denoiser_training.evaluate
import dpclean.denoiser_training.fit
import dpclean.denoiser_training.options
import dpclean.pipeline
import dpclean.pipeline.options

# by function: the class that checks its options, None where all are written out
COMMANDS: dict[Callable[..., Any], type | None] = {
    dpclean.pipeline.sanitize: dpclean.pipeline.options.SanitizeOptions,
    dpclean.pipeline.dry_run: dpclean.pipeline.options.SanitizeOptions,
    dpclean.pipeline.sigma_sheet: dpclean.pipeline.options.SanitizeOptions,
    dpclean.classifier_training.job.train: dpclean.classifier_training.options.TrainOptions,
    dpclean.classifier_training.job.dry_run: dpclean.classifier_training.options.TrainOptions,
    dpclean.certify.job.certify: dpclean.certify.options.CertifyOptions,
    dpclean.certify.dry_run.dry_run: dpclean.certify.options.CertifyOptions,
    dpclean.certify.external_votes.certify_votes: None,
    dpclean.certificate.plan.plan: None,
    dpclean.audit.job.audit: dpclean.audit.options.AuditOptions,
    dpclean.audit.job.dry_run: dpclean.audit.options.AuditOptions,
    dpclean.audit.evasion.job.audit: dpclean.audit.evasion.options.EvasionOptions,
    dpclean.audit.evasion.job.dry_run: dpclean.audit.evasion.options.EvasionOptions,
    dpclean.denoiser_training.fit.fit: dpclean.denoiser_training.options.FitOptions,
    dpclean.denoiser_training.fit.dry_run: dpclean.denoiser_training.options.FitOptions,
    dpclean.denoiser_training.evaluate.evaluate: None,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.__module__}.{command.__name__}")
def test_every_option_has_a_name_and_a_type(command: Callable[..., Any]) -> None:
    """So mypy and editors see a misspelt keyword, which **options of any kind would hide."""
    options, hints = COMMANDS[command], get_type_hints(command)
    parameters = inspect.signature(command).parameters
    rest = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    assert all(hints[name] is not Any for name in parameters)
    if options is None:
        assert rest == []
        return
    (name,) = rest
    assert get_origin(hints[name]) is Unpack
    (given,) = get_args(hints[name])
    assert is_typeddict(given)
    assert {field.name for field in dataclasses.fields(options)} == set(get_type_hints(given)) | (
        {"sigma"} if "sigma" in parameters or "sigmas" in parameters else set()
    )


def test_the_functions_that_the_documentation_names_are_there() -> None:
    text = (Path(dpclean.__file__).parent.parent / "docs" / "python.md").read_text("utf-8")
    rows = re.findall(r"^\| `dpclean [^|]*\| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 4
    for row in rows:
        for module, name in re.findall(r"`(dpclean(?:\.[a-z_]+)*)\.([a-z_]+)`", row):
            assert inspect.isfunction(getattr(importlib.import_module(module), name)), f"{module}.{name}"


@pytest.mark.parametrize(
    "name", ["sanitize.sanitize", "train.train", "certify.certify", "audit.audit", "denoiser.fit_denoiser"]
)
def test_every_long_command_looks_ahead_and_takes_a_file(name: str) -> None:
    module, function = name.split(".")
    parameters = inspect.signature(getattr(importlib.import_module(f"dpclean.cli.{module}"), function)).parameters
    assert {"dry_run", "config", "overwrite", "json", "quiet"} <= parameters.keys()
