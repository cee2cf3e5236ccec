"""Whether the GPU path builds, is right and is fast here: one program, for a card that is lent by the minute.

    python benchmarks/gpu_check.py [--data INPUTS] [--out FOLDER] [--seconds 480] [--only PART ...] [--rehearse]
    python benchmarks/gpu_check.py --gather FILE ... [--out FOLDER]

Parts run one after the other, the most important first, each in a process of its own with its own time limit, so that
none can take the rest along. After each, FOLDER/gpu_check.json has its result and FOLDER/gpu_check.log what it printed;
started again, it goes on with what is not done yet on this card and this commit. Needs torch with CUDA, nvcc, and
dpclean's dependencies; no network. INPUTS is what make_inputs.py made; without it, the pictures are made up, and what
needs real ones is left out. --rehearse runs every part on the CPU, with tiny sizes: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine_facts import REPOSITORY, machine_facts

# in order of importance; the most seconds that each may take
LIMITS = {
    "facts": 30,
    "build": 120,
    "tests": 90,
    "memcheck": 60,
    "racecheck": 60,
    "noise": 30,
    "group_norm": 30,
    "denoiser": 60,
    "training": 120,
    "certify": 60,
    "shards": 60,
    "commands": 90,
    "compiled": 90,
    "fit": 360,
}
REHEARSAL_LIMIT = 300  # of each part: a busy CPU is no reason


def run_part(name: str, arguments: argparse.Namespace, limit: float) -> dict[str, Any]:
    """The result of a part that runs in a process group of its own."""
    log = arguments.out / "gpu_check.log"
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch) / "result.json"
        command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), name, str(given), scratch]
        command += ["--rehearse"] * arguments.rehearse
        command += ["--data", str(arguments.data)] if arguments.data else []
        begun = time.monotonic()
        with log.open("a") as output:
            output.write(f"\n==== {name}\n")
            output.flush()
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, start_new_session=True
            )
            try:
                process.wait(limit)
                status = "ok" if process.returncode == 0 else f"failed with {process.returncode}"
            except subprocess.TimeoutExpired:
                status = f"not done after {limit:.0f} s"
            finally:
                _end(process)
        result = json.loads(given.read_text()) if given.is_file() else {}
        return {"status": status, "seconds": round(time.monotonic() - begun, 1), "result": result}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group, also what a part left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, part in parts.items():
        lines.append(f"{name:10} {part['seconds']:6.1f} s  {part['status']}")
        for key, value in part["result"].items():
            shown = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"{'':12}{key}: {shown}")
    return "\n".join(lines)


def gathered(paths: Sequence[Path]) -> dict[str, Any]:
    """One result of several: each part as it was when it last ended by itself, well or not."""
    results = [json.loads(path.read_text()) for path in paths]
    if len({str(result["gpus"]) for result in results}) > 1 or any(result["rehearsal"] for result in results):
        sys.exit("gpu_check: only what ran on cards of one kind goes together, and no rehearsals")
    parts: dict[str, Any] = {}
    for result in results:
        ended = {name: part for name, part in result["parts"].items() if not part["status"].startswith("not done")}
        parts |= {name: {**part, "date": result["machine"]["date"]} for name, part in ended.items()}
    return {**results[-1], "parts": {name: parts[name] for name in LIMITS if name in parts}}


def keep(result: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="what make_inputs.py made")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--seconds", type=float, default=480, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=tuple(LIMITS), default=list(LIMITS), metavar="PART")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--gather", nargs="+", type=Path, metavar="FILE", help="gpu_check.json of earlier loans")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    kept = a.out / "gpu_check.json"
    if a.gather:
        keep(gathered(a.gather), kept)
        return 0
    machine = machine_facts()
    same = {key: machine[key] for key in ("gpus", "commit")} | {"rehearsal": a.rehearse}
    before = json.loads(kept.read_text()) if kept.is_file() else {}
    parts: dict[str, Any] = before["parts"] if {key: before.get(key) for key in same} == same else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part is left behind
    begun = time.monotonic()
    for name in a.only:
        if parts.get(name, {}).get("status") == "ok":
            continue
        limit = REHEARSAL_LIMIT if a.rehearse else min(LIMITS[name], a.seconds - (time.monotonic() - begun))
        if limit < 5:
            print(f"{name}: no time left; the same command goes on", flush=True)
            continue
        parts[name] = run_part(name, a, limit)
        keep({**same, "machine": machine, "parts": parts}, kept)
        print(table({name: parts[name]}), flush=True)
    print(f"\n{kept}:", ", ".join(f"{name} {part['status']}" for name, part in parts.items()))
    return 0 if all(parts.get(name, {}).get("status") == "ok" for name in a.only) else 1


if __name__ == "__main__":
    sys.exit(main())
