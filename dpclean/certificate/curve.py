"""The curve of a certificate: how much of the test set is certified at each radius, as SVG and as PNG.

Both pictures are made from one list of shapes, so they cannot tell different stories. Nothing is drawn above what
was proved: the curve steps down at the published radii themselves, and between two radii the lower confidence
bound is drawn at the height of the larger one.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from html import escape
from typing import Any

from dpclean.certificate.decimals import budget
from dpclean.certificate.files import parameters_in

Place = tuple[float, float]

WIDTH, HEIGHT = 640, 424
LEFT, RIGHT, TOP, BOTTOM = 74, 622, 84, 330  # the frame of the plot
SCALE = 2  # pixels of the PNG to one unit of the drawing
TEXT = 14
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # SVG's words, Pillow's

# role: colour on light paper, on dark paper, width of the line, its dashes
ROLES: Mapping[str, tuple[str, str, float, tuple[int, ...]]] = {
    "paper": ("#faf9f6", "#191817", 0, ()),
    "ink": ("#1c1b19", "#eceae5", 1, ()),
    "faint": ("#6f6b64", "#a19c93", 1, ()),
    "grid": ("#e2dfd8", "#35332f", 1, ()),
    "curve": ("#1f5fa8", "#7db3ee", 2.5, ()),
    "lower": ("#4a7fbf", "#a3c9f2", 1.5, (6, 4)),
    "ceiling": ("#b0431e", "#ee9470", 1.5, (2, 3)),
}


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through places, in a role of ROLES."""

    places: Sequence[Place]
    role: str


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text; anchor says which of its ends, or its middle, is at the place on the base line."""

    place: Place
    text: str
    role: str
    anchor: str = "start"


def curve_svg(certificate: Mapping[str, Any]) -> str:
    """The curve as an SVG element that stands alone or inside a page, with colours for light and dark."""
    drawing = _drawing(certificate)
    shapes = "\n".join(_svg_stroke(s) if isinstance(s, Stroke) else _svg_label(s) for s in drawing)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" class="dpclean-curve" role="img">
<title>{escape(_subject(certificate))} against radius</title>
<style>{_svg_style()}</style>
<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>
{shapes}
</svg>
"""


def curve_png(certificate: Mapping[str, Any]) -> bytes:
    """The same picture as a PNG file, on light paper, 1280 x 848 pixels."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), ROLES["paper"][0])
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT * SCALE)
    for shape in _drawing(certificate):
        colour, _, width, dashes = ROLES[shape.role]
        if isinstance(shape, Label):
            place = (shape.place[0] * SCALE, shape.place[1] * SCALE)
            draw.text(place, shape.text, fill=colour, font=font, anchor=ANCHORS[shape.anchor])
            continue
        for start, end in _dashed(shape.places, dashes):
            ends = [(x * SCALE, y * SCALE) for x, y in (start, end)]
            draw.line(ends, fill=colour, width=round(width * SCALE))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


# --- what is drawn ---


def radii(certificate: Mapping[str, Any]) -> tuple[list[Decimal], int]:
    """The radii that count, ascending, and of how many points they are a share.

    With labels: radii of the points certified for their own class, of all labelled points. Without: of all claims.
    """
    labelled = certificate["accuracy"] is not None
    points = [p for p in certificate["points"] if p["label"] is not None or not labelled]
    claims = [p for p in points if p["class"] >= 0 and (not labelled or p["class"] == p["label"])]
    return sorted(Decimal(p["certified_radius"]) for p in claims), len(points)


def steps(certificate: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners (radius, share) of the curve: at every r the share of points whose radius is r or more."""
    found, total = radii(certificate)
    corners = [(0.0, len(found) / total)]
    for radius in sorted(set(found)):
        corners.append((float(radius), corners[-1][1]))
        corners.append((float(radius), (len(found) - bisect_right(found, radius)) / total))
    return corners


def lower_steps(certificate: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners (radius, bound) of the lower bound: between two radii of the table the bound at the larger one."""
    at = [(float(row["radius"]), float(row["lower"])) for row in certificate["accuracy"]["at"]]
    corners = at[:1]
    for radius, lower in at[1:]:
        corners += [(corners[-1][0], lower), (radius, lower)]
    return corners


def _subject(certificate: Mapping[str, Any]) -> str:
    exploratory = certificate["kind"] == "exploratory"
    if certificate["accuracy"] is None:
        return "share of test points with a radius (not proved)" if exploratory else "share of test points certified"
    return "share right with a radius (not proved)" if exploratory else "certified accuracy"


def _drawing(certificate: Mapping[str, Any]) -> list[Stroke | Label]:
    ceiling = float(certificate["summary"]["ceiling"])
    ticks = _ticks(ceiling or float(parameters_in(certificate).sigma))
    reach = max(ceiling * 1.03, float(ticks[-1]))

    def place(radius: float, share: float) -> Place:
        return (LEFT + (RIGHT - LEFT) * radius / reach, BOTTOM - (BOTTOM - TOP) * share)

    shapes: list[Stroke | Label] = []
    for quarter in range(5):
        shapes.append(Stroke([place(0, quarter / 4), place(reach, quarter / 4)], "grid"))
        shapes.append(Label((LEFT - 8, place(0, quarter / 4)[1] + 5), f"{25 * quarter} %", "faint", "end"))
    shapes += _scale(ticks, [place(float(tick), 0)[0] for tick in ticks])
    shapes += _ceiling(certificate, place(ceiling, 0)[0])
    legend = [("curve", _subject(certificate), steps(certificate))]
    if certificate["accuracy"] is not None and certificate["kind"] != "exploratory":
        level = _percent(certificate["accuracy"]["confidence"])
        legend.append(("lower", f"lower bound, {level} confidence", lower_steps(certificate)))
    for left, (role, text, corners) in zip((LEFT, LEFT + 280), legend, strict=False):
        shapes.append(Stroke([place(*corner) for corner in corners], role))
        shapes += [Stroke([(left, 22), (left + 26, 22)], role), Label((left + 34, 27), text, "ink")]
    if not certificate["summary"]["certified"]:
        shapes.append(Label(((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), "every test point abstains", "ink", "middle"))
    return shapes


def _scale(ticks: Sequence[Fraction], lefts: Sequence[float]) -> list[Stroke | Label]:
    """Tick marks with the radius, the budget below it, and what the two words mean."""
    radius_line, budget_line, meaning = BOTTOM + 23, BOTTOM + 42, BOTTOM + 69
    shapes: list[Stroke | Label] = [
        Label((LEFT - 14, radius_line), "radius", "faint", "end"),
        Label((LEFT - 14, budget_line), "budget", "faint", "end"),
        Label((LEFT, meaning), "radius: distance of two training sets, pixels from 0 to 1", "faint"),
        Label((LEFT, meaning + 19), "budget: the same as squared changes of grey levels, summed", "faint"),
    ]
    for tick, left in zip(ticks, lefts, strict=True):
        shapes.append(Stroke([(left, BOTTOM), (left, BOTTOM + 5)], "faint"))
        shapes.append(Label((left, radius_line), f"{float(tick):g}", "ink", "middle"))
        shapes.append(Label((left, budget_line), f"{budget(tick):,}", "faint", "middle"))
    return shapes


def _ceiling(certificate: Mapping[str, Any], left: float) -> list[Stroke | Label]:
    """The line no radius can pass, and its label: to the left of it where there is room."""
    text = f"ceiling {certificate['summary']['ceiling']}: the most {parameters_in(certificate).runs:,} runs can show"
    anchor = "end" if left > (LEFT + RIGHT) / 2 else "start"
    return [
        Stroke([(left, TOP - 16), (left, BOTTOM)], "ceiling"),
        Label((left + (-7 if anchor == "end" else 7), TOP - 9), text, "ceiling", anchor),
    ]


def _ticks(reach: float) -> list[Fraction]:
    """At most eight round radii from 0 to reach."""
    power = Fraction(1, 10**6)
    while True:
        for factor in (1, 2, 5):
            if reach / float(factor * power) < 8:
                return [i * factor * power for i in range(int(reach / float(factor * power)) + 1)]
        power *= 10


def _percent(share: object) -> str:
    return f"{(Decimal(str(share)) * 100).normalize():f} %"


# --- SVG ---


def _svg_style() -> str:
    light, dark = (
        " ".join(f".dpclean-curve {{ --{role}: {row[column]}; }}" for role, row in ROLES.items()) for column in (0, 1)
    )
    strokes = " ".join(
        f".dpclean-curve .{role} {{ fill: none; stroke: var(--{role}); stroke-width: {width:g};"
        f" stroke-dasharray: {' '.join(map(str, dashes)) or 'none'}; }}"
        for role, (_, _, width, dashes) in ROLES.items()
    )
    texts = " ".join(f".dpclean-curve text.{role} {{ fill: var(--{role}); stroke: none; }}" for role in ROLES)
    return f"""
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
{strokes}
.dpclean-curve .paper {{ fill: var(--paper); stroke: none; }}
.dpclean-curve text {{ font: {TEXT}px system-ui, sans-serif; }}
{texts}
"""


def _svg_stroke(stroke: Stroke) -> str:
    return f'<polyline class="{stroke.role}" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in stroke.places)}"/>'


def _svg_label(label: Label) -> str:
    place = f'x="{label.place[0]:.2f}" y="{label.place[1]:.2f}" text-anchor="{label.anchor}"'
    return f'<text class="{label.role}" {place}>{escape(label.text)}</text>'


# --- PNG ---


def _dashed(places: Sequence[Place], dashes: Sequence[int]) -> list[tuple[Place, Place]]:
    """The straight pieces of a line; of a dashed one those that are drawn, the pattern going on round corners."""
    pairs = list(zip(places, places[1:], strict=False))
    if not dashes:
        return pairs
    on, off = dashes
    pieces: list[tuple[Place, Place]] = []
    gone = 0.0
    for (x0, y0), (x1, y1) in pairs:
        length = abs(x1 - x0) + abs(y1 - y0)  # lines run along the axes
        at = -(gone % (on + off))
        while at < length:
            start, end = max(at, 0), min(at + on, length)
            if start < end:
                first, last = start / length, end / length
                pieces.append(
                    ((x0 + (x1 - x0) * first, y0 + (y1 - y0) * first), (x0 + (x1 - x0) * last, y0 + (y1 - y0) * last))
                )
            at += on + off
        gone += length
    return pieces
