"""A checkout whose compiled extension is missing, of another Python or of other sources says how to build it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import dpclean

PACKAGE = Path(dpclean.__file__).parent
THIS_PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"
OTHER = "_kernels.cpython-27-x86_64-linux-gnu.so"
OWN = f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.mark.parametrize(
    ("extension", "content", "says"),
    [
        (None, b"", f"is not built for this {THIS_PYTHON}"),
        (OTHER, b"", f"is not built for this {THIS_PYTHON}, only {OTHER} is there"),
        (OWN, b"no library", f"cannot be loaded by this {THIS_PYTHON} ("),
        (OWN, (PACKAGE / OWN).read_bytes(), "was built from other sources than csrc has now"),
    ],
    ids=["never", "other Python", "damaged", "outdated"],
)
def test_an_extension_that_does_not_serve_is_a_refusal(
    extension: str | None, content: bytes, says: str, tmp_path: Path
) -> None:
    checkout = tmp_path / "a checkout"
    weights = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors")
    shutil.copytree(PACKAGE, checkout / "dpclean", ignore=weights)
    (checkout / "setup.py").touch()
    (checkout / "csrc").mkdir()
    (checkout / "csrc" / "pulled.cpp").touch()
    if extension:
        (checkout / "dpclean" / extension).write_bytes(content)
    (tmp_path / "raw").mkdir()
    # -S: an installation in editable mode would find its own extension
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), *sys.path[1:]])}

    def told(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-S", *arguments], cwd=checkout, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stderr

    code, said = told("-m", "dpclean", "sanitize", str(tmp_path / "raw"), "--sigma", "0.25", "--out", "clean")
    first, second = said.splitlines()
    assert code == 4 and first.startswith("dpclean: error: ") and says in first
    assert second == f"hint: build it with {sys.executable} -m pip install -e '{checkout}'"
    code, said = told("-c", "import dpclean.noise")
    assert code == 1 and f"SetupError: {first.removeprefix('dpclean: error: ')}\n{second}\n" in said
