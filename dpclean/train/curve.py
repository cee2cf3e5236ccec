"""The training curve as a table and as a drawing."""

from __future__ import annotations

from collections.abc import Sequence

from dpclean.train.trainer import Epoch

WIDTH, HEIGHT, MARGIN = 560, 260, 44


def curve_tsv(curve: Sequence[Epoch]) -> str:
    """One line an epoch: number, mean loss, accuracy on the training batches, seconds."""
    rows = (f"{e.number}\t{e.loss:.6f}\t{e.accuracy:.6f}\t{e.seconds:.3f}\n" for e in curve)
    return "epoch\tloss\taccuracy\tseconds\n" + "".join(rows)


def curve_svg(curve: Sequence[Epoch]) -> str:
    """Loss, against its largest value, and accuracy over the epochs."""
    top = max(e.loss for e in curve)
    lines = (
        ("loss", "#b3541e", [e.loss / top for e in curve], f"loss (axis to {top:.3g})"),
        ("accuracy", "#1e6fb3", [e.accuracy for e in curve], "accuracy on the training batches (axis to 1)"),
    )
    drawn = "".join(
        f'<polyline class="{kind}" fill="none" stroke="{colour}" stroke-width="2" points="{_points(values)}"/>'
        f'<text x="{MARGIN + 230 * place}" y="20" fill="{colour}">{said}</text>'
        for place, (kind, colour, values, said) in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<path d="M{MARGIN} 32V{HEIGHT - MARGIN}H{WIDTH - 12}" fill="none" stroke="#555"/>{drawn}'
        f'<text x="{MARGIN}" y="{HEIGHT - 20}">epoch 1</text>'
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 20}" text-anchor="end">{len(curve)}</text></svg>\n'
    )


def _points(values: Sequence[float]) -> str:
    width, height = WIDTH - 12 - MARGIN, HEIGHT - MARGIN - 32
    step = width / max(1, len(values) - 1)
    return " ".join(f"{MARGIN + i * step:.1f},{32 + height * (1 - value):.1f}" for i, value in enumerate(values))
