"""The training curve as a table and as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dpclean.report.plot import Line, Plot
from dpclean.train.trainer import Epoch

TICKS = 6  # epochs that are written below the curve, about


def curve_tsv(curve: Sequence[Epoch]) -> str:
    """One line an epoch: number, mean loss, accuracy on the training batches, seconds."""
    rows = (f"{e.number}\t{e.loss:.6f}\t{e.accuracy:.6f}\t{e.seconds:.3f}\n" for e in curve)
    return "epoch\tloss\taccuracy\tseconds\n" + "".join(rows)


def curve_plot(curve: Sequence[Epoch]) -> Plot:
    """Accuracy, and loss against its largest value, over the epochs."""
    top, last = max(e.loss for e in curve), len(curve)
    curve = curve if last > 1 else [*curve, replace(curve[0], number=2)]  # of one epoch a line, not a point
    step = max(1, round((last - 1) / TICKS))
    return Plot(
        title="accuracy on the training batches, and loss, by epoch",
        lines=[
            Line("curve", "accuracy on training batches", [(e.number, e.accuracy) for e in curve]),
            Line("loss", f"loss (100 % is {top:.3g})", [(e.number, e.loss / top if top else 0.0) for e in curve]),
        ],
        start=1,
        reach=max(last, 2),
        rows=("epoch",),
        ticks=[(number, (str(number),)) for number in range(1, last + 1, step)],
    )
