"""An import goes down only, from floor to floor of FLOORS; parts that share a floor do not import each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpclean

ROOT = Path(dpclean.__file__).parent

FLOORS = (
    {"errors", "build", "small_files"},
    {"progress", "kernels", "versioned"},
    {"noise", "jobs", "device", "optim", "threads", "report"},
    {"data", "certificate"},
    {"denoise", "train", "certificate_page"},
    {"doctor"},
    {"classifier_training", "denoiser_training", "pipeline", "sanitizer"},
    {"certify"},
    {"audit"},
    {"cli"},
    {"__main__"},
)
FLOOR = {member: number for number, floor in enumerate(FLOORS) for member in floor}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def member(path: Path) -> str:
    """The part a file belongs to: dpclean/data/digest.py is of "data"."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(source: str, package: str) -> Iterator[str]:
    """The dotted names under dpclean that a module imports anywhere in it, for types only or late ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dpclean")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, node.module] if node.module else parents)
            if base == "dpclean":
                yield from (f"{base}.{alias.name}" for alias in node.names)
            elif base.startswith("dpclean."):
                yield base


def climbs(source: str, path: Path) -> list[str]:
    """What a module imports from its own floor or from above it, other than from its own part."""
    package = ".".join(("dpclean", *path.relative_to(ROOT).parent.parts))
    own = member(path)
    names = [name.split(".")[1] for name in imported(source, package) if "." in name]
    return sorted({name for name in names if name != own and name in FLOOR and FLOOR[name] >= FLOOR[own]})


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    assert member(path) in FLOOR, f"say in FLOORS where {member(path)} belongs"
    assert climbs(path.read_text("utf-8"), path) == []


@pytest.mark.parametrize(
    ("source", "file", "found"),
    [
        ("from dpclean.errors import InputError", "noise/keys.py", []),
        ("from dpclean.pipeline import sanitize", "data/digest.py", ["pipeline"]),
        ("from dpclean import noise", "jobs/record.py", ["noise"]),
        ("from ..denoise import loading", "data/digest.py", ["denoise"]),
        ("from . import names", "data/digest.py", []),
        ("def f():\n    import dpclean.cli", "errors.py", ["cli"]),
        ("from dpclean.data.sources import Entry", "data/selection.py", []),
        ("from dpclean.certificate import votes", "certificate/bounds.py", []),
        ("from dpclean.certify import job", "certificate/bounds.py", ["certify"]),
        ("from dpclean.certificate.votes import Votes", "data/selection.py", ["certificate"]),
        ("from dpclean.data import source", "certificate/verify.py", ["data"]),
    ],
)
def test_the_walk_sees_every_form_of_import(source: str, file: str, found: list[str]) -> None:
    assert climbs(source, ROOT / file) == found


PACKAGES = {"pillow": "PIL", "huggingface-hub": "huggingface_hub"}  # where a package and its module differ in name


def test_dependencies_are_what_is_imported() -> None:
    pyproject = tomllib.loads((ROOT.parent / "pyproject.toml").read_text("utf-8"))
    declared = {re.split("[<>=!~ ]", text)[0] for text in pyproject["project"]["dependencies"]}
    nodes = [node for path in ROOT.rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    imported = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"dpclean"}
    assert {PACKAGES.get(name, name) for name in declared} == imported


HEAVY = ("torch", "numpy", "torchvision", "diffusers", "PIL", "scipy", "safetensors", "matplotlib", "jinja2")


def loaded_by(program: str, *arguments: str) -> set[str]:
    """The heavy packages in sys.modules when a program has run in a process of its own."""
    report = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr))
{program}
"""
    done = subprocess.run(
        [sys.executable, "-c", report, *arguments], cwd=ROOT.parent, capture_output=True, text=True, timeout=60
    )
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import dpclean, dpclean.certify") == set()
    assert "numpy" in loaded_by("from dpclean.certify import certify; assert certify.__name__ == 'certify'")
    assert loaded_by("import numpy") == {"numpy"}


def test_a_worker_on_rows_of_features_loads_no_torch() -> None:
    """Of many short ones loading it would be most of the work."""
    assert "torch" not in loaded_by("from dpclean.certify import feature_runs, run_tasks, worker, workdir")


COMMAND = "sys.argv[0] = 'dpclean'; from dpclean.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["sanitize", "--help"], ["sanitize", "--no-such"], ["quarantine", "no-such"]],
)
def test_help_refusals_and_lists_load_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(COMMAND, *arguments) == set()
