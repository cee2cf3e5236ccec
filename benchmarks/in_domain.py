"""What a fit on clean images of one's own kind gains over the bundled denoiser, on images held out.

    python benchmarks/in_domain.py TRUSTED HELD_OUT --out DIR [--minutes 60] [--limit 500]
    python benchmarks/in_domain.py TRUSTED HELD_OUT --out DIR --ways BATCH:RATE ... --patches N

TRUSTED and HELD_OUT share no image: what make_inputs.py made of CIFAR-10 train and test, say (the bundled denoiser saw
neither). Runs what `examples/fit_denoiser.sh` runs; killed, the fit goes on where it was. --ways: one fit for each of
these batches and learning rates, on as many patches in all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from machine_facts import write_results

SIGMAS = "0.05,0.1,0.25,0.5"


def dpclean(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "dpclean", *arguments, "--json"]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def by_ways(a: argparse.Namespace) -> None:
    psnr = {"natural": evaluated("natural", a)}
    for way in a.ways:
        batch, rate = way.split(":")
        fit, out = ("denoiser", "fit", a.trusted, "--init", "natural"), f"{a.out}-{batch}-{rate}"
        length = ("--batch-size", batch, "--learning-rate", rate, "--steps", str(a.patches // int(batch)))
        dpclean(*fit, *length, "--out", out)
        psnr[f"batches of {batch} at {rate}"] = evaluated(out, a)
        print(way, psnr, flush=True)
    print(write_results("in_domain_ways", {"patches": a.patches, "held_out": int(a.limit), "psnr": psnr}))


def evaluated(denoiser: str, a: argparse.Namespace) -> dict[str, float]:
    """PSNR by sigma."""
    rows = dpclean("denoiser", "eval", denoiser, a.held_out, "--sigmas", SIGMAS, "--limit", a.limit)["rows"]
    return {f"{row['sigma']:g}": round(row["psnr_denoised"], 3) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trusted", metavar="TRUSTED")
    parser.add_argument("held_out", metavar="HELD_OUT")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", default="60")
    parser.add_argument("--limit", default="500")
    parser.add_argument("--ways", nargs="+", metavar="BATCH:RATE")
    parser.add_argument("--patches", type=int, default=3840)
    a = parser.parse_args()
    if a.ways:
        return by_ways(a)
    fit = dpclean("denoiser", "fit", a.trusted, "--init", "natural", "--minutes", a.minutes, "--out", a.out)
    evaluations = {
        name: dpclean("denoiser", "eval", denoiser, a.held_out, "--sigmas", SIGMAS, "--limit", a.limit)
        for name, denoiser in (("natural", "natural"), ("own", a.out))
    }
    rows = [
        {"sigma": natural["sigma"], "natural": natural["psnr_denoised"], "own": own["psnr_denoised"]}
        for natural, own in zip(*(evaluation["rows"] for evaluation in evaluations.values()), strict=True)
    ]
    for row in rows:
        print(f"{row['sigma']:6g} natural {row['natural']:6.2f} own {row['own']:6.2f} dB")
    facts = {"minutes": float(a.minutes), "steps": fit["steps"], "trusted": fit["images"]}
    print(write_results("in_domain", {**facts, "held_out": evaluations["own"]["images"], "rows": rows}))


if __name__ == "__main__":
    main()
