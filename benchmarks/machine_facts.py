"""The facts without which a benchmark's figures mean nothing: processor, memory, versions, commit, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "pillow", "typer", "rich")


def machine_facts() -> dict[str, object]:
    """What the figures depend on, ready for JSON; imports nothing that it only names."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and number of repeated measurements."""
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "q1": first, "q3": third, "n": len(values)}


def write_results(name: str, results: Mapping[str, object]) -> Path:
    """Write results with the machine's facts as benchmarks/results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine_facts(), **results}, indent=1) + "\n")
    return path


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu_names() -> list[str]:
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return []
    return listing.stdout.splitlines() if listing.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checked-out commit, with "-dirty" where tracked files differ from it; None outside a repository."""
    described = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() if described.returncode == 0 else None
