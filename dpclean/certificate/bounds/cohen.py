"""Cohen: some of the runs select the class, the others are counted for it alone."""

from __future__ import annotations

from dpclean.certificate.bounds.base import ClaimSettings, ShareBound
from dpclean.certificate.interval_arithmetic import tail_up
from dpclean.errors import UsageError


class Cohen(ShareBound):
    """Clopper-Pearson at alpha for the class that other runs selected; Cohen, Rosenfeld and Kolter 2019."""

    name = "cohen"
    sentence = "a tenth of the runs chooses the class, and all others are counted for it alone"

    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        return tail_up(k_a, settings.runs, p)

    def error(self, k: int, n: int, p: float, level: float) -> float:
        from dpclean.certificate.sample_size import tail

        return 1.0 if 2 * k <= n else tail(k, n, p)

    def selects(self, settings: ClaimSettings, k_a: int, k_b: int) -> bool:
        return True  # other runs did

    def selection_runs(self, runs: int) -> int:
        return max(1, runs // 10)

    def check_selection(self, runs: int, selection: int) -> None:
        if not 1 <= selection < runs:
            raise UsageError(
                f"{self.name} selects with some of its runs, got {selection} of {runs}", "a tenth is a common choice"
            )

    def runs_in_all(self, counted: int) -> int:
        runs = counted + max(1, counted // 9)
        while runs - self.selection_runs(runs) > counted:
            runs -= 1
        while runs - self.selection_runs(runs) < counted:
            runs += 1
        return runs


BOUND = Cohen()
