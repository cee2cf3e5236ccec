"""What is installed here, what of it works, and what to do about the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import operator
import os
import platform
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dpclean.errors import DpcleanError, SetupError

Status = Literal["ok", "warn", "fail"]

LOW_SPACE = 1 << 30  # bytes free below which a disk is worth a warning
MODULES = {"torch": "torch", "torchvision": "torchvision", "diffusers": "diffusers.models.unets"}
COMPARISONS = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt
}  # fmt: skip
OUT_OF_MEMORY = ("failed to map segment", "bad_alloc", "annot allocate memory")  # what an import then says
NO_LIMIT = "lift the limit, with ulimit -v unlimited: it counts what is reserved and never used"
REINSTALL = "install dpclean anew from its source folder, with pip install --force-reinstall --no-deps ."
TOGETHER = "install both anew from one index, with pip install --force-reinstall torch torchvision"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found and, unless all is well, what to do."""

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order in which a reader wants them."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        order: tuple[Status, ...] = ("ok", "warn", "fail")
        return max((finding.status for finding in self.findings), key=order.index)

    @property
    def failed(self) -> bool:
        """Whether something that dpclean cannot do without is missing or broken."""
        return self.status == "fail"

    def as_dict(self) -> dict[str, object]:
        """The object that --json prints."""
        return {"status": self.status, "findings": [asdict(finding) for finding in self.findings]}

    def lines(self, only_bad: bool = False) -> list[str]:
        """The report for people: a line a finding, a remedy indented under what needs one."""
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for finding in self.findings:
            if only_bad and finding.status == "ok":
                continue
            lines.append(f"{finding.status:<4}  {finding.name:<{width}}  {finding.found}")
            if finding.remedy:
                lines.append(f"{'':<{width + 8}}hint: {finding.remedy}")
        return lines


def examine() -> Report:
    """Look at everything that dpclean needs, really importing and reading it; takes some seconds.

    Never raises for what it finds: a missing or broken part is a finding with status "fail".
    """
    return Report(tuple(_findings()))


def check_libraries() -> None:
    """Import torch and diffusers; raise SetupError, with what is wrong and the remedy, where they cannot be.

    A torchvision that was built for another torch cannot be imported, nor can diffusers beside it, and what they
    raise then names an operator and not the cause; without memory or a folder for temporary files they fail in many
    ways, and then they are not to blame. Commands call this when an import has failed.
    """
    for finding in itertools.chain(_surroundings(), _libraries()):
        if finding.status == "fail":
            raise SetupError(finding.found, finding.remedy)


def _findings() -> Iterator[Finding]:
    yield _machine()
    yield from _kernels()
    yield from _surroundings()
    yield from _libraries()
    yield _gpus()
    yield from _denoisers()
    try:
        yield _space("this folder", Path.cwd())
    except FileNotFoundError:
        yield Finding("this folder", "warn", "it has been deleted", "change to a folder that is there")


def _surroundings() -> Iterator[Finding]:
    """What the system must give before any library works."""
    if limit := _address_limit():
        yield Finding("memory limit", "warn", limit, NO_LIMIT)
    try:
        yield _space("temporary files", Path(tempfile.gettempdir()))
    except FileNotFoundError:
        found = "there is no folder for them that can be written to"
        yield Finding("temporary files", "fail", found, "set TMPDIR to a folder that can be written to")


def _machine() -> Finding:
    found = (
        f"{_version('dpclean') or 'not installed'}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )
    return Finding("dpclean", "ok", found)


def _kernels() -> Iterator[Finding]:
    try:
        from dpclean.kernels import cuda_built, kernel_name, kernel_names

        found = f"{kernel_name()} in use; this processor can run {', '.join(kernel_names())}"
    except ImportError as error:
        yield Finding("kernels", "fail", f"the compiled module cannot be imported: {_first_line(error)}", REINSTALL)
        return
    except DpcleanError as error:
        yield Finding("kernels", "fail", error.message, error.remedy)
        return
    yield Finding("kernels", "ok", found)
    if cuda_built():
        yield Finding("CUDA kernel", "ok", "built")
    elif _has_nvidia_device():
        found = "not built, so a GPU job draws its noise on the CPU (the same bits, slower)"
        yield Finding("CUDA kernel", "warn", found, f"put nvcc on PATH, then {REINSTALL}")
    else:
        yield Finding("CUDA kernel", "ok", "not built; without a GPU none is needed")


def _libraries() -> Iterator[Finding]:
    """torch, torchvision and diffusers, each really imported; nothing more after the first that cannot be."""
    for package, module in MODULES.items():
        version = _version(package)
        if version is None and package == "torchvision":
            yield Finding(package, "warn", "not installed; sanitizing does without it", "pip install torchvision")
            continue
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError, AttributeError, MemoryError) as error:
            yield _not_importable(package, error)
            return
        wanted = _wanted_torch() if package == "torchvision" else ""
        if satisfies(_version("torch") or "", wanted):
            yield Finding(package, "ok", version or "imported from a folder that pip does not know")
        else:
            yield Finding(package, "warn", f"{version} wants torch {wanted}, found {_version('torch')}", TOGETHER)


def _not_importable(package: str, error: Exception) -> Finding:
    """Why a library cannot be imported; an installed torchvision that cannot be is one made for another torch."""
    version = _version(package)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        found = f"memory ran out while {package} was loaded ({_address_limit() or _first_line(error)})"
        return Finding(package, "fail", found, NO_LIMIT if _address_limit() else "free some, or take a larger machine")
    if version is None:
        return Finding(package, "fail", f"{package} is not installed", f"pip install {package}")
    if package == "torchvision":
        pair = f"torch {_version('torch')} and torchvision {version}"
        return Finding(package, "fail", f"{pair} do not belong together ({_first_line(error)})", TOGETHER)
    found = f"{package} {version} cannot be imported ({_first_line(error)})"
    return Finding(package, "fail", found, f"install it anew, with pip install --upgrade --force-reinstall {package}")


def _gpus() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("GPU", "fail", "cannot be looked for without torch", "see torch above")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", "ok", ", ".join(names))
    if not _has_nvidia_device():
        return Finding("GPU", "ok", "none; the CPU is used")
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    found = f"there is one, but this torch, {built}, cannot use it"
    return Finding("GPU", "warn", found, "update the driver, or install a torch that fits it")


def _denoisers() -> Iterator[Finding]:
    try:
        from dpclean.denoise.loading import BUNDLED
    except ImportError as error:
        yield Finding("denoisers", "fail", f"cannot be looked at: {_first_line(error)}", "see the libraries above")
        return
    for name in BUNDLED:
        yield _denoiser(name)


def _denoiser(name: str) -> Finding:
    from safetensors import SafetensorError, safe_open

    from dpclean.denoise.loading import find_denoiser

    title = f"denoiser {name}"
    try:
        files = find_denoiser(name)
        with safe_open(files.weights, framework="numpy") as weights:
            count = len(weights.keys())
    except DpcleanError as error:
        return Finding(title, "fail", error.message, error.remedy)
    except (OSError, SafetensorError) as error:
        return Finding(title, "fail", f"its weights cannot be read: {_first_line(error)}", REINSTALL)
    size = files.weights.stat().st_size / 2**20
    return Finding(title, "ok", f"{count} tensors, {size:.1f} MiB, SHA-256 {files.digests()['weights'][:16]}...")


def _space(name: str, folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, "warn", f"{folder} cannot be looked at: {error.strerror}", "work in a folder of your own")
    found = f"{free / 2**30:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(name, "warn", f"{folder} cannot be written to", "work in a folder of your own")
    if free < LOW_SPACE:
        return Finding(name, "warn", found, "make room before a long job")
    return Finding(name, "ok", found)


def _address_limit() -> str:
    """What ulimit -v says, "" where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if limit == resource.RLIM_INFINITY else f"ulimit -v allows a process {limit / 2**30:.3g} GiB of addresses"


def _version(package: str) -> str | None:
    """The version that pip recorded, without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wanted_torch() -> str:
    """What the installed torchvision asks of torch, as in ">=2.14.0"; "" where it asks for nothing."""
    for requirement in importlib.metadata.requires("torchvision") or ():
        wanted = re.fullmatch(r"torch\s*\(?([^;()]*)\)?\s*", requirement.partition(";")[0])
        if wanted:
            return wanted[1].strip()
    return ""


def satisfies(version: str, specifier: str) -> bool:
    """Whether a release meets "==2.5.1" or ">=2.4,<3"; build tags (+cpu) are not compared."""
    return all(
        COMPARISONS[sign](_release(version), _release(wanted))
        for sign, wanted in re.findall(r"(==|!=|>=|<=|>|<)\s*([0-9.]+)", specifier)
    )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, padded so that 2.5 equals 2.5.0."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = tuple(map(int, numbers[0].split("."))) if numbers else ()
    return parts + (0,) * (4 - len(parts))


def _has_nvidia_device() -> bool:
    return Path("/dev/nvidiactl").exists()


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop, for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
