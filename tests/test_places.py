"""OUT lies neither in nor around anything that a command reads, whichever command it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpclean.audit.evasion.job import audit as attack
from dpclean.audit.job import audit
from dpclean.audit.job import dry_run as dry_audit
from dpclean.certify.dry_run import dry_run as dry_certify
from dpclean.certify.external_votes import certify_votes
from dpclean.certify.job import certify
from dpclean.classifier_training import job
from dpclean.classifier_training.job import train
from dpclean.denoiser_training import fit as fitting
from dpclean.denoiser_training.fit import fit
from dpclean.errors import ConflictError
from dpclean.pipeline import dry_run, sanitize

COMMANDS: dict[str, Callable[[Path, Path], Any]] = {
    "sanitize": lambda given, out: sanitize(given, out, sigma=0.25),
    "sanitize --dry-run": lambda given, out: dry_run(given, out, sigma=0.25),
    "sanitize --denoiser": lambda given, out: sanitize(given.parent / "raw", out, sigma=0.25, denoiser=str(given)),
    "train": lambda given, out: train(given, out),
    "train --test": lambda given, out: train(given.parent / "raw", out, test=given),
    "train --init": lambda given, out: train(given.parent / "raw", out, init=str(given)),
    "train --warm-start": lambda given, out: train(given.parent / "raw", out, warm_start=given),
    "certify": lambda given, out: certify(given, out),
    "certify --dry-run": lambda given, out: dry_certify(given, out, sigma="0.25"),
    "certify --raw": lambda given, out: certify(given.parent / "raw", out, raw=given),
    "certify --test": lambda given, out: certify(given.parent / "raw", out, test=given),
    "certify --init": lambda given, out: certify(given.parent / "raw", out, init=str(given)),
    "certify --denoiser": lambda given, out: certify(given.parent / "raw", out, denoiser=str(given)),
    "certify --votes": lambda given, out: certify_votes(given, out, classes=2, sigma="0.25"),
    "denoiser fit": lambda given, out: fit([given.parent / "raw", given], out),
    "denoiser fit --dry-run": lambda given, out: fitting.dry_run([given.parent / "raw", given], out),
    "denoiser fit --init": lambda given, out: fit([given.parent / "raw"], out, init=str(given)),
    "audit": lambda given, out: audit(given, out, extractor="efficientnet-lite0"),
    "audit --test": lambda given, out: audit(given.parent / "raw", out, extractor="efficientnet-lite0", test=given),
    "audit --extractor": lambda given, out: audit(given.parent / "raw", out, extractor=str(given)),
    "audit --dry-run": lambda given, out: dry_audit(given, out, extractor="efficientnet-lite0"),
    "audit --model": lambda given, out: attack(out, model=str(given), test=given.parent / "raw"),
    "audit --model, --test": lambda given, out: attack(out, model=str(given.parent / "raw"), test=given),
    "train --dry-run": lambda given, out: job.dry_run(given, out),
}


@pytest.mark.parametrize("place", ["is", "inside", "around"])
@pytest.mark.parametrize("command", COMMANDS)
def test_out_must_lie_apart_from_every_input(tmp_path: Path, command: str, place: str) -> None:
    given = tmp_path / "inputs" / "given"
    (given / "a").mkdir(parents=True)
    (given.parent / "raw").mkdir()
    if command == "certify --votes":
        from safetensors.numpy import save_file

        given.rename(given.parent / "folder")
        save_file({}, given)
        if place == "inside":
            pytest.skip("nothing can lie inside a file")
    out = {"is": given, "inside": given / "x" / "out", "around": tmp_path / "inputs"}[place]
    with pytest.raises(ConflictError, match=f"OUT .*{place}"):
        COMMANDS[command](given, out)
    assert not (given / "x").exists() and not list(tmp_path.rglob("*.dpclean"))
