"""Builds dpclean._kernels with ninja: C++ always, CUDA where nvcc is found. Needs no torch.

CXX                  the C++ compiler, default g++
CUDA_HOME            where to look for nvcc before PATH
DPCLEAN_BUILD_CUDA   0: leave CUDA out even where nvcc is
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
# Nothing may be contracted to a fused multiply-add: results are equal bit for bit on every path.
# (The uninitialized values of which gcc 12 warns are its own intrinsics'.)
CXX_FLAGS = (
    "-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno"
    " -Wall -Wno-uninitialized -Wno-maybe-uninitialized"
)
NVCC_FLAGS = "-std=c++20 -O3 --fmad=false -Xcompiler -fPIC,-fvisibility=hidden"
ARCHITECTURES = ("75", "80", "90", "100", "120")  # of these, the ones that nvcc knows; code for 80 runs on 86 to 89


def find_nvcc() -> str | None:
    """The CUDA compiler's path, or None where it is absent or not wanted."""
    if os.environ.get("DPCLEAN_BUILD_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    return (shutil.which("nvcc", path=f"{home}/bin") if home else None) or shutil.which("nvcc")


def architecture_flags(nvcc: str) -> str:
    known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout.split()
    chosen = [a for a in ARCHITECTURES if f"sm_{a}" in known]
    newest = chosen[-1]  # its PTX serves whatever comes later
    return " ".join(
        [
            *(f"-gencode arch=compute_{a},code=sm_{a}" for a in chosen),
            f"-gencode arch=compute_{newest},code=compute_{newest}",
        ]
    )


def cudart_flags(nvcc: str) -> str:
    """Links the CUDA run-time statically, so that the module imports where there is none. nvcc says where it lies."""
    dry = subprocess.run(
        [nvcc, "--dryrun", "-o", "/dev/null", str(next(CSRC.glob("*.cu")))], check=True, capture_output=True, text=True
    ).stderr
    libraries = next(line.partition("LIBRARIES=")[2] for line in dry.splitlines() if "LIBRARIES=" in line)
    return libraries.replace('"', "") + " -lcudart_static -ldl -lrt -lpthread"


def check_compiler() -> None:
    """End with one sentence where there is no compiler, before pip has hundreds of lines to show."""
    compiler = os.environ.get("CXX", "g++")
    if {"bdist_wheel", "build_ext", "editable_wheel"} & set(sys.argv) and not shutil.which(compiler.split()[0]):
        raise SystemExit(
            f"dpclean: there is no C++ compiler {compiler!r} on PATH, and dpclean is compiled when it is installed from"
            " its sources; install g++ (apt-get install g++), or name another one with CXX=..., or install a wheel,"
            " which 'make wheel' makes on a machine that has one"
        )


class NinjaBuild(build_ext):
    """Writes a ninja file beside the objects and runs it: parallel, and only what changed."""

    def build_extension(self, ext: Extension) -> None:
        folder, target = Path(self.build_temp).resolve(), Path(self.get_ext_fullpath(ext.name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(self.rules(target))
        subprocess.run(["ninja", "-C", str(folder)], check=True)

    def rules(self, target: Path) -> str:
        sys.path.insert(0, str(ROOT))  # which a build in isolation leaves out
        from dpclean.build import COMPILED, code_digest

        nvcc = find_nvcc()
        include = f"-I{sysconfig.get_path('include')} -I{pybind11.get_include()}"
        lines = [
            "rule cxx",
            f"  command = {os.environ.get('CXX', 'g++')} {CXX_FLAGS} {include} $defines -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "rule link",
            f"  command = {os.environ.get('CXX', 'g++')} -shared $in -o $out $libraries -pthread",
        ]
        objects = []
        defines = "-DDPCLEAN_CUDA" if nvcc else ""
        for source in sorted(CSRC.glob("*.cpp")):
            objects.append(f"{source.stem}.o")
            digest = f'-DDPCLEAN_SOURCES=\\"{code_digest(CSRC, COMPILED)}\\"' if source.stem == "bindings" else ""
            lines += [f"build {source.stem}.o: cxx {source}", f"  defines = {defines} {digest}"]
        if nvcc:
            lines += [
                "rule nvcc",
                f"  command = {nvcc} {NVCC_FLAGS} {architecture_flags(nvcc)} -t 0 -MD -MF $out.d -c $in -o $out",
                "  depfile = $out.d",
            ]
            for source in sorted(CSRC.glob("*.cu")):
                objects.append(f"{source.stem}.o")
                lines.append(f"build {source.stem}.o: nvcc {source}")
        lines += [f"build {target}: link {' '.join(objects)}", f"  libraries = {cudart_flags(nvcc)}" if nvcc else ""]
        return "\n".join(lines) + "\n"


check_compiler()
setup(ext_modules=[Extension("dpclean._kernels", sources=[])], cmdclass={"build_ext": NinjaBuild})
