"""Curves as matplotlib draws them: SVG in which text stays text, in colours for light and dark, and the same as PNG.

matplotlib is imported when a picture is made, and keeps to its own defaults, whatever a matplotlibrc says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[float, float]

WIDTH, HEIGHT = 640, 424  # units of a picture; text has 14 of them
LEFT, RIGHT, TOP, BOTTOM = 74, 622, 84, 330  # the frame of the plot, from above
SCALE = 2  # pixels of the PNG to one unit
TEXT = 14
ROW = 19  # from one line of text to the next

# role: colour on light paper, on dark paper, width of the line, its dashes
ROLES: Mapping[str, tuple[str, str, float, tuple[int, ...]]] = {
    "paper": ("#faf9f6", "#191817", 0, ()),
    "ink": ("#1c1b19", "#eceae5", 1, ()),
    "faint": ("#6f6b64", "#a19c93", 1, ()),
    "grid": ("#e2dfd8", "#35332f", 1, ()),
    "curve": ("#1f5fa8", "#7db3ee", 2.5, ()),
    "lower": ("#4a7fbf", "#a3c9f2", 1.5, (6, 4)),
    "loss": ("#a4501f", "#ecae8c", 1.5, ()),
    "third": ("#5d7d2c", "#a9cb78", 2.0, (2, 2)),
    "limit": ("#b0431e", "#ee9470", 1.5, (2, 3)),
}


@dataclass(frozen=True)
class Line:
    """A line through places (x, y), y from 0 to 1, in a role of ROLES; label: of the legend, or empty."""

    role: str
    label: str
    places: Sequence[Place]


@dataclass(frozen=True)
class Plot:
    """A drawing of lines over 0..reach.

    ticks: (x, one text a row of `rows`). heights: (y, text). notes: lines below it all. limit: where a line stands that
    nothing passes, and what it says. message: in the middle, for a reader who sees no line.
    """

    title: str
    lines: Sequence[Line]
    reach: float
    rows: Sequence[str]
    ticks: Sequence[tuple[float, Sequence[str]]]
    heights: Sequence[tuple[float, str]] = tuple((quarter / 4, f"{25 * quarter} %") for quarter in range(5))
    notes: Sequence[str] = ()
    limit: tuple[float, str] | None = None
    message: str | None = None
    start: float = 0.0
    marks: Sequence[tuple[float, str]] = ()  # where something known lies, ascending, and what it is


def svg(plot: Plot) -> str:
    """An SVG element that stands alone or inside a page."""
    text = _saved(plot, "svg").decode()
    text = re.sub(
        r"<defs>.*?</defs>", "", text[text.index("<svg") :], count=1, flags=re.S
    )  # its style is the page's too
    for role, (light, *_) in ROLES.items():
        text = text.replace(f": {light}", f": var(--{role})")
    text = re.sub(r'<g id="([^"]*)"', lambda found: f'<g class="{found[1]}"' if found[1] in ROLES else "<g", text)
    text = re.sub(r"font-size: ([\d.]+px); font-family: [^;\"]*", r"font-size: \1", text)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" class="dpclean-curve" role="img">'
        f"\n<title>{escape(plot.title)}</title>\n<style>{_style()}</style>"
    )
    return opening + text[text.index(">") + 1 :]


def png(plot: Plot) -> bytes:
    """The same picture on light paper, 1280 x 848 pixels."""
    return _saved(plot, "png")


def _saved(plot: Plot, kind: str) -> bytes:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "dpclean",
                "text.parse_math": False,
                "lines.scale_dashes": False,
            }
        )
        none = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
        file = io.BytesIO()
        _figure(plot).savefig(file, format=kind, dpi=72 * SCALE, metadata=none)
        return file.getvalue()


class _Drawing:
    """A figure with a frame for the plot; places are in the numbers of the plot or in units from left and above."""

    def __init__(self, start: float, reach: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor=ROLES["paper"][0])
        frame = (LEFT / WIDTH, 1 - BOTTOM / HEIGHT, (RIGHT - LEFT) / WIDTH, (BOTTOM - TOP) / HEIGHT)
        self.axes = self.figure.add_axes(frame, frameon=False)
        self.axes.set_xlim(start, reach)
        self.axes.set_ylim(0, 1)
        self.axes.set_xticks([])
        self.axes.set_yticks([])
        self.start = start
        self.unit = (reach - start) / (RIGHT - LEFT)

    def at(self, x: float, y: float) -> Place:
        """The place in the plot of units from the left and from above."""
        return self.start + (x - LEFT) * self.unit, self.height(y)

    def height(self, y: float) -> float:
        return (BOTTOM - y) / (BOTTOM - TOP)

    def write(self, place: Place, text: str, role: str, side: str = "left") -> None:
        """A line of text; side: which of its ends, or its center, is at the place on the base line."""
        self.axes.text(*place, text, color=ROLES[role][0], fontsize=TEXT, ha=side, va="baseline")

    def stroke(self, places: Sequence[Place], role: str, name: str | None = None) -> None:
        """A line through places; name: by which it is found in the SVG."""
        colour, _, width, dashes = ROLES[role]
        self.axes.plot(
            *zip(*places, strict=True), color=colour, linewidth=width, linestyle=(0, dashes) if dashes else "solid",
            clip_on=False, gid=name, solid_capstyle="butt", dash_capstyle="butt",
        )  # fmt: skip


def _figure(plot: Plot) -> Figure:
    drawing = _Drawing(plot.start, plot.reach)
    _draw_scales(drawing, plot)
    if plot.limit is not None:
        x, text = plot.limit
        drawing.stroke([(x, 0), (x, drawing.height(TOP - 16))], "limit", "limit")
        beyond = (x - plot.start) / drawing.unit > (RIGHT - LEFT) / 2
        beside = x + (-7 if beyond else 7) * drawing.unit
        drawing.write((beside, drawing.height(TOP - 9)), text, "limit", "right" if beyond else "left")
    for number, (x, text) in enumerate(plot.marks):
        top = TOP - 6 - ROW * (number % 2)  # two rows, as neighbours may be near
        drawing.stroke([(x, 0), (x, drawing.height(top))], "faint")
        aside = -4 if (x - plot.start) / drawing.unit > 0.9 * (RIGHT - LEFT) else 4
        side = "right" if aside < 0 else "left"
        drawing.write((x + aside * drawing.unit, drawing.height(top - 1)), text, "faint", side)
    named = [line for line in plot.lines if line.label]
    apart = 280 if len(named) < 3 else (RIGHT - LEFT) / len(named)
    for line in plot.lines:
        drawing.stroke(line.places, line.role, line.role)
        if line not in named:
            continue
        left = LEFT + apart * named.index(line)
        drawing.stroke([drawing.at(left, 22), drawing.at(left + 26, 22)], line.role)
        drawing.write(drawing.at(left + 34, 27), line.label, "ink")
    if plot.message is not None:
        drawing.write(drawing.at((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), plot.message, "ink", "center")
    return drawing.figure


def _draw_scales(drawing: _Drawing, plot: Plot) -> None:
    """Heights at the left, below the plot its rows of numbers and what they mean."""
    for height, text in plot.heights:
        drawing.stroke([(plot.start, height), (plot.reach, height)], "grid")
        drawing.write(drawing.at(LEFT - 8, BOTTOM - height * (BOTTOM - TOP) + 5), text, "faint", "right")
    rows = [BOTTOM + 23 + ROW * number for number in range(len(plot.rows))]
    for below, name in zip(rows, plot.rows, strict=True):
        drawing.write(drawing.at(LEFT - 14, below), name, "faint", "right")
    for x, texts in plot.ticks:
        drawing.stroke([(x, 0), (x, drawing.height(BOTTOM + 5))], "faint")
        for below, text in zip(rows, texts, strict=True):
            drawing.write((x, drawing.height(below)), text, "ink" if below == rows[0] else "faint", "center")
    for number, note in enumerate(plot.notes):
        drawing.write(drawing.at(LEFT, rows[-1] + 8 + ROW * (1 + number)), note, "faint")


def _style() -> str:
    light, dark = (" ".join(f"--{role}: {row[place]};" for role, row in ROLES.items()) for place in (0, 1))
    return f"""
.dpclean-curve {{ {light} }}
@media (prefers-color-scheme: dark) {{ .dpclean-curve {{ {dark} }} }}
.dpclean-curve text {{ font-family: system-ui, sans-serif; }}
"""
