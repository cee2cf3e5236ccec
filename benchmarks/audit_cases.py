"""What benchmarks of `dpclean audit` share: a case's folder, what is kept of it, and the loop over all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from machine_facts import RESULTS, machine_facts, spread, write_results

from dpclean.errors import DpcleanError

CRAFTING = "crafting, processor s a target, by what the attacker knows"
TOLD = ("headline", "images", "test_images", "parameters", "environment", "rows")


def folder_of(scratch: Path, name: str, targets: int) -> Path:
    """Where a case is audited; all of it stays there."""
    return scratch / f"{name.replace(', ', '-').replace(' ', '-')}-{targets}"


def kept(out: Path, *more: str) -> dict[str, Any]:
    """What the table says of a case. more: names of what else audit.json says."""
    told = json.loads((out / "audit.json").read_bytes())
    crafting = dict[str, dict[str, float]]()
    for number, made in enumerate(told["trials"][0]["craftings"]):
        each = [trial["craftings"][number]["processor_seconds"] for trial in told["trials"]]
        crafting["no defence" if made["crafted_for"] is None else f"sigma {made['crafted_for']:g}"] = spread(each)
    return {
        "machine": machine_facts(),
        CRAFTING: crafting,
        **{key: told[key] for key in (*TOLD, *more)},
    }


def run_cases(
    program: str, names: Iterable[str], measured: Callable[[str], dict[str, Any]], **beside: dict[str, Any]
) -> None:
    """Each is written into the program's results as it comes, beside what stands there of others."""
    for name in names:
        try:
            found = measured(name)
        except DpcleanError as error:
            sys.exit(str(error))
        path = RESULTS / f"{program}.json"
        cases = json.loads(path.read_text())["cases"] if path.exists() else {}
        write_results(program, {**beside, "cases": {**cases, name: found}})
        print(found["headline"])
        for row in found["rows"]:
            print(*row.values(), sep="\t")
