"""How long `dpclean` takes to answer: whole processes, against one that only imports what a command line is made of.

python benchmarks/start_up.py            prints a table, writes benchmarks/results/start_up.json
python benchmarks/start_up.py --runs 5   fewer repetitions
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from machine_facts import spread, write_results

BASE = "import typer, rich"
DPCLEAN = str(Path(sysconfig.get_path("scripts")) / "dpclean")
COMMANDS = {  # name: (command, exit code)
    BASE: ([sys.executable, "-c", BASE], 0),
    "dpclean --help": ([DPCLEAN, "--help"], 0),
    "dpclean --version": ([DPCLEAN, "--version"], 0),
    "dpclean sanitize --sgima (no such option)": ([DPCLEAN, "sanitize", "raw", "--sgima", "0.25"], 2),
    "dpclean sanitize --sigma 0,25 (no number)": ([DPCLEAN, "sanitize", "raw", "--out", "clean", "--sigma", "0,25"], 2),
    "dpclean certify --bound best (no such choice)": ([DPCLEAN, "certify", "clean", "--bound", "best"], 2),
}


def seconds(name: str) -> float:
    """The wall time of one process, from its start to its end; its exit code must be the right one."""
    command, expected = COMMANDS[name]
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    elapsed = time.perf_counter() - start
    if done.returncode != expected:
        sys.exit(f"start_up: {name}: exit code {done.returncode}, expected {expected}\n{done.stderr.decode()}")
    return elapsed


def heavy_imports(name: str) -> list[str]:
    """Which of torch, numpy and diffusers a command imports."""
    command, _ = COMMANDS[name]
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True)
    modules = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    if "typer" not in modules:
        sys.exit(f"start_up: {name}: the list of imports could not be read")
    return sorted(modules & {"torch", "numpy", "diffusers"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="repetitions of each, interleaved")
    runs: int = parser.parse_args().runs
    for name in list(COMMANDS)[1:]:
        if heavy := heavy_imports(name):
            sys.exit(f"start_up: {name} imports {', '.join(heavy)}")

    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repetition in range(runs + 1):  # the first, which warms the file cache, is not counted
        for name, measured in times.items():
            elapsed = seconds(name)
            if repetition:
                measured.append(elapsed)

    results = {}
    print(f"{'':<42} {'median':>8} {'quartiles':>17} {'ratio':>7}")
    for name, measured in times.items():
        ratios = [a / b for a, b in zip(measured, times[BASE], strict=True)]
        results[name] = {"seconds": spread(measured), "ratio": spread(ratios)}
        s, r = results[name]["seconds"], results[name]["ratio"]
        print(f"{name:<42} {s['median']:>7.3f}s {s['q1']:>8.3f}-{s['q3']:.3f}s {r['median']:>6.2f}x")
    print(f"torch, numpy and diffusers imported: none; results in {write_results('start_up', {'processes': results})}")


if __name__ == "__main__":
    main()
