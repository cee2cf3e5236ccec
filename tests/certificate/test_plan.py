"""Planning: the runs that a radius takes, checked against the bounds themselves, and what the command says."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.plan import plan
from dpclean.cli import run
from dpclean.errors import UsageError

SHARES = ("0.7", "0.8", "0.9", "0.95", "0.99", "0.999")
TABLE = {  # runs for a radius of so many sigma, alpha = 0.001, power 0.9; None where it is impossible
    "0.25": (433, 101, 39, 28, 19, 14),
    "0.5": (55570, 316, 71, 43, 26, 19),
    "1": (None, None, 637, 154, 67, 40),
    "1.5": (None, None, None, 3783, 216, 100),
    "2": (None, None, None, None, 1953, 402),
}


@pytest.mark.parametrize("radius", TABLE)
@pytest.mark.parametrize("bound", ["union", "cohen"])
def test_the_table_of_runs_by_share_of_votes(radius: str, bound: str) -> None:
    for share, known in zip(SHARES, TABLE[radius], strict=True):
        found = plan(radius, "1", pa=share, bound=bound).runs
        if bound == "union" or known is None:
            assert found == known
        else:  # a tenth of all runs selects, the others are counted
            assert found is not None and found - max(1, found // 10) == known


@pytest.mark.parametrize(
    ("radius", "known"), [("0.25", 14), ("0.5", 19), ("1", 40), ("1.5", 100), ("2", 301), ("2.5", 1109)]
)
def test_the_least_runs_that_suffice_when_all_agree(radius: str, known: int) -> None:
    assert plan(radius, "1", bound="union").runs == known
    assert plan(str(Decimal(radius) / 4), "0.25", bound="union").runs == known


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("radius", ["0.5", "1.5"])
def test_unanimous_runs_reach_the_radius_and_one_less_does_not(bound: str, radius: str) -> None:
    runs = plan(radius, "1", bound=bound).runs
    assert runs is not None

    def reached(total: int) -> Fraction:
        counted = total - (max(1, total // 10) if bound == "cohen" else 0)
        made = find_bound(bound).claim(ClaimSettings(counted, Fraction("0.001"), Fraction(1), Fraction(0)), counted, 0)
        return made.radius if made else Fraction(0)

    assert reached(runs) >= Fraction(radius) > reached(runs - 1)


@pytest.mark.parametrize(
    ("bound", "pa", "pb"), [("union", 0.9, None), ("anytime", 0.9, None), ("multiclass", 0.9, None),
                            ("multiclass", 0.9, 0.04), ("multiclass", 0.6, 0.1), ("multiclass", 0.95, 0.02)]
)  # fmt: skip
def test_the_runs_reach_the_radius_with_the_power_that_was_asked_for(bound: str, pa: float, pb: float | None) -> None:
    answer = plan("0.1", "0.25", bound=bound, pa=str(pa), pb=None if pb is None else str(pb), power="0.8").runs
    assert answer is not None
    second = 1 - pa if pb is None else pb
    shares = [pa, second] + [(1 - pa - second) / 8] * 8  # the rest is spread over eight classes

    def power(runs: int) -> float:
        counts = np.random.default_rng(0).multinomial(runs, np.abs(shares), size=4000)
        settings = ClaimSettings(runs, Fraction("0.001"), Fraction("0.25"), Fraction(0))
        made = [find_bound(bound).claim(settings, int(k[0]), int(k[1:].max())) for k in counts[:1500]]
        return float(np.mean([claim is not None and claim.radius >= Fraction("0.1") for claim in made]))

    assert 0.76 < power(answer) < 0.93 and power(answer * 3 // 4) < 0.8


def test_more_points_for_all_together_take_more_runs() -> None:
    result = plan("0.25", "0.25", points=1000, pa="0.95", family="all")
    alone, together = result.answers
    assert (alone.family, together.family) == ("point", "all") and result.runs == together.runs
    assert alone.runs is not None and together.runs is not None and together.runs > alone.runs
    assert alone.unanimous_runs is not None and together.unanimous_runs is not None
    assert together.unanimous_runs > alone.unanimous_runs


def test_time_and_disk_follow_from_the_runs() -> None:
    result = plan("0.25", "0.25", points=50, seconds_per_run=3.0, workers=2, image_bytes=10**6)
    assert result.runs == 42 and result.seconds == 63.0 and result.bytes == 4 * 42 * 50 + 2 * 10**6


def test_what_is_impossible_says_why() -> None:
    result = plan("0.5", "0.25", pa="0.9")
    assert result.runs is None and result.why_impossible is not None and "1.282 sigma" in result.why_impossible
    beyond = plan("2", "0.25")
    assert beyond.runs is None and beyond.why_impossible is not None and "8 sigma" in beyond.why_impossible


REFUSED = [
    ({"radius": "0"}, "radius"), ({"sigma": "0"}, "sigma"), ({"sigma": "0,25"}, "decimal"), ({"alpha": "1"}, "alpha"),
    ({"bound": "magic"}, "bound"), ({"family": "each"}, "family"), ({"points": 0}, "points"), ({"pa": "1"}, "pa"),
    ({"pb": "0.1"}, "--pa"), ({"pa": "0.4", "pb": "0.5"}, "pa > pb"), ({"pa": "0.9", "pb": "0.2"}, "at most 1"),
    ({"radius": "0.003921"}, "no change at all"), ({"pa": "0.9", "power": "1"}, "power"), ({"workers": 0}, "workers"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_what_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        plan(**{"radius": "0.25", "sigma": "0.25", **change})  # type: ignore[arg-type]
    assert words in refusal.value.message + refusal.value.remedy


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_says_runs_time_disk_ceilings_and_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--radius", "0.25", "--sigma", "0.25", "--pa", "0.95", "--pb", "0.02", "--points", "100"]
    assert run(["plan", *options, "--seconds-per-run", "60", "--workers", "2", "--image-bytes", "1M"]) == 0
    said = capsys.readouterr().out
    for words in ("1 sigma: a budget of 4,064", "42 runs if all of them agree", "For all 100 points together", "Time: ",
                  "Disk: 2.", "1,000 runs: 0.612162", "10 runs: nothing", "NOT covered"):  # fmt: skip
        assert words in said
    assert run(["plan", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "plan" and result["budget"] == 4064 and result["answers"][1]["family"] == "all"


def test_the_command_refuses_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--radius", "0.25", "--sigma", "nan"]) == 2
    assert "decimal" in capsys.readouterr().err


@pytest.mark.parametrize("shares", [["--pa", "0.9"], []])
def test_plan_needs_none_of_the_heavy_packages(shares: list[str]) -> None:
    """scipy neither where no share of votes is given: what all runs agreeing would show is exact."""
    program = f"""
import sys
for name in ("torch", "torchvision", "matplotlib", "jinja2", "diffusers", "PIL", "huggingface_hub"):
    sys.modules[name] = None  # an import of it fails
if not {shares!r}:
    sys.modules["scipy"] = None
from dpclean.cli import run
sys.exit(run(["plan", "--radius", "0.25", "--sigma", "0.25", *{shares!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "42 runs" in done.stdout, done.stderr
