"""The CUDA kernels without a GPU: csrc/*.cu as C++ under sanitizers, and as nvcc compiles them where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "tests" / "cuda_shim"
COMPILER = os.environ.get("CXX", "g++")


def ran(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT)
    if done.stderr.startswith("skip: "):
        pytest.skip(done.stderr.removeprefix("skip: "))
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def runtime(name: str) -> str | None:
    """The path of a library that comes with the compiler."""
    if shutil.which(COMPILER) is None:
        return None
    found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if os.path.isabs(found) else None


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if runtime("libasan.so") is None or runtime("libubsan.so") is None:
        pytest.skip(f"{COMPILER} is not here or has no sanitizers")
    built = tmp_path_factory.mktemp("shim") / "kernels.so"
    sources = [SHIM / "exports.cpp", *sorted((ROOT / "csrc").glob("*.cu"))]
    flags = "-std=c++20 -O1 -g1 -fPIC -shared -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover"
    warnings = "-Wall -Werror -Wno-unused-function -Wno-unknown-pragmas"
    includes = [f"-I{SHIM}", f"-I{ROOT / 'csrc'}", "-x", "c++"]
    ran([COMPILER, *flags.split(), *warnings.split(), *includes, *map(str, sources), "-o", str(built)])
    return built


@pytest.mark.parametrize(
    "group", ["known_answers", "noise", "undecided", "inverse", "huge", "group_norm", "group_norm_rest", "sums"]
)
def test_the_kernels_on_a_pretended_gpu(library: Path, group: str) -> None:
    sanitizer = runtime("libasan.so")
    assert sanitizer is not None
    ran(
        [sys.executable, str(SHIM / "exercise.py"), str(library), group],
        LD_PRELOAD=sanitizer, ASAN_OPTIONS="detect_leaks=0", PYTHONMALLOC="malloc", PYTHONPATH=str(ROOT),
    )  # fmt: skip


@pytest.mark.parametrize("source", sorted((ROOT / "csrc").glob("*.cu")), ids=lambda path: path.stem)
def test_nvcc_compiles_the_kernels(source: Path, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    flags = "-std=c++20 -O1 -Xptxas -O0 --fmad=false -arch=sm_90 -Werror all-warnings"
    ran([nvcc, *flags.split(), "-c", str(source), "-o", str(tmp_path / "kernel.o")])
