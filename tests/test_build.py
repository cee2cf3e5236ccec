"""The digest that tells code from other code of the same version."""

from __future__ import annotations

import shutil
from pathlib import Path

import dpclean
from dpclean.build import build, code_digest


def test_any_change_of_code_is_seen_and_nothing_else(tmp_path: Path) -> None:
    source = Path(dpclean.__file__).parent
    package = tmp_path / "dpclean"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    whole = code_digest(package)
    assert whole == code_digest(source) and build() == f"{dpclean.__version__}+{whole[:16]}"
    (package / "denoise/natural/README.md").write_text("other words")
    (package / "__pycache__").mkdir()
    (package / "__pycache__/errors.cpython-311.pyc").write_bytes(b"compiled")
    assert code_digest(package) == whole
    kernels = next(package.glob("_kernels*.so"))
    for path in (package / "train/recipes.py", kernels):
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert code_digest(package) != whole
        path.write_bytes(before)
    (package / "train/recipes.py").rename(package / "train/receipts.py")
    assert code_digest(package) != whole
