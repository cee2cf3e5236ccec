"""Certified accuracy over the radius, and what it costs: one `dpclean certify` a sigma, figure 2 of arXiv 2403.11981.

    python benchmarks/certified_curve.py RAW TEST --out WORK [--sigma 0.25 0.5 0.1] [--runs 100] [--commands 2]

RAW and TEST are what `certify` takes. Several commands share the runs of a certificate: where one waits for the host,
the other has the device. WORK keeps the certificates and whatever was begun; started again, it goes on there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine_facts import write_results
from safetensors.numpy import load_file

RADII = (0, 0.1, 0.25, 0.5)


def certify(a: argparse.Namespace, sigma: float, out: Path) -> float:
    """Seconds until the certificate is there."""
    command = [
        sys.executable, "-m", "dpclean", "certify", str(a.raw), "--test", str(a.test), "--sigma", f"{sigma:g}",
        "--runs", str(a.runs), "--recipe", a.recipe, "--device", a.device, "--out", str(out), "--quiet",
    ]  # fmt: skip
    begun = time.perf_counter()
    commands = [subprocess.Popen(command) for _ in range(a.commands)]
    codes = [process.wait() for process in commands]
    if any(codes):
        sys.exit(f"certified_curve: certify ended with {codes}")
    return time.perf_counter() - begun


def certified_accuracy(out: Path) -> dict[str, float]:
    """Of the points, with the right class at each radius; at 0 any claim counts."""
    points = json.loads((out / "certificate.json").read_text())["points"]

    def share(radius: float) -> float:
        right = [p["class"] == p["label"] and float(p["certified_radius"]) >= radius for p in points]
        return round(float(np.mean(right)), 4)

    return {f"{radius:g}": share(radius) for radius in RADII}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 0.1])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commands", type=int, default=2)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for sigma in a.sigma:
        out, kept = a.out / f"sigma-{sigma:g}", a.out / f"sigma-{sigma:g}.json"
        if not kept.is_file():
            spent = certify(a, sigma, out)
            certificate = json.loads((out / "certificate.json").read_text())
            votes = load_file(out / "votes.safetensors")["votes"]
            labels = np.array([point["label"] for point in certificate["points"]])
            made = {
                "images": certificate["terms"]["raw"]["images"], "points": len(labels), "runs": len(votes),
                "recipe": a.recipe, "alpha": certificate["terms"]["alpha"],
                "s": round(spent, 1), "a run, s": round(spent / len(votes), 2), "commands at once": a.commands,
                "accuracy of one run": round(float((votes == labels).mean()), 4),
                "certified accuracy": certified_accuracy(out),
            }  # fmt: skip
            kept.write_text(json.dumps(made))
        found[f"{sigma:g}"] = json.loads(kept.read_text())
        print(f"sigma {sigma:g}", found[f"{sigma:g}"], flush=True)
        write_results("certified_curve", {"by sigma": found})


if __name__ == "__main__":
    main()
