"""The wheel has everything that dpclean needs at run time and nothing else, and works where it is unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dpclean.denoise.loading import BUNDLED

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, without CUDA, which takes nvcc minutes."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("dpclean", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"  # where ninja is
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source],
        env={**os.environ, "PATH": path, "DPCLEAN_BUILD_CUDA": "0"},
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("dpclean-*.whl")
    return built


def test_wheel_has_the_denoisers_the_hints_and_the_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [ROOT / "dpclean" / "py.typed", *ROOT.glob("dpclean/**/*.py"), *ROOT.glob("dpclean/denoise/*/**/*")]
    wanted = {str(path.relative_to(ROOT)) for path in sources if path.is_file() and "__pycache__" not in path.parts}
    assert wanted <= names
    for denoiser in BUNDLED:
        assert f"dpclean/denoise/{denoiser}/diffusion_pytorch_model.safetensors" in names
    assert sum(file.compress_size for file in zipfile.ZipFile(wheel).infolist()) < 20e6
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"dpclean"}
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".h"))]


def test_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = "import dpclean.noise as n; print(n.__file__); print(n.cuda_built(), 'scalar' in n.kernel_names())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'dpclean' / 'noise' / '__init__.py'}\nFalse True\n"
