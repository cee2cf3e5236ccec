"""The page one looks at after sanitizing: raw, noised, sanitized and difference, as a PNG and as one HTML file.

Names come from data that nobody trusts. They are shown escaped: no control or direction character and no
markup of theirs reaches the page, and the page may load nothing and run nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dpclean.errors import printable

Pixels = NDArray[np.uint8]

GAIN = 3  # a change of one grey level is drawn as this many
NEAR = 160  # pixels: images smaller than this are enlarged by a whole factor to about this
LIMIT = 320  # pixels: of larger images every second, third, ... pixel is shown; averaging would hide the noise

COLUMNS = (
    ("Raw", "as it came in"),
    ("Noised", "random noise added to every pixel"),
    ("Sanitized", "what the denoiser made of it: the output"),
    (f"Difference x{GAIN}", "sanitized minus raw; mid-grey is no change"),
)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One image in its three states, uint8 [H,W,C] of one shape, C 1 or 3; noised is clipped to 0..255."""

    name: str
    raw: Pixels
    noised: Pixels
    sanitized: Pixels


def write_contact_sheet(
    path_stem: Path, rows: Sequence[SheetRow], title: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write path_stem + ".png" and path_stem + ".html" (one file, opens offline) and return both paths.

    facts: what a reader should know of the run, in the order shown ("sigma": "0.25", ...).
    """
    png = path_stem.with_name(path_stem.name + ".png")
    html = path_stem.with_name(path_stem.name + ".html")
    _draw(rows, title, facts).save(png)
    html.write_text(_page(rows, title, facts), encoding="utf-8")
    return png, html


def difference(raw: Pixels, sanitized: Pixels) -> Pixels:
    """Sanitized minus raw, GAIN times, about mid-grey (128), clipped to 0..255; same shape."""
    amplified: Pixels = np.clip(128 + GAIN * (sanitized.astype(np.int16) - raw), 0, 255).astype(np.uint8)
    return amplified


def _tiles(row: SheetRow) -> list[Image.Image]:
    """The four images of a row, RGB, as large as they are shown; no pixel is mixed with another."""
    longest = max(row.raw.shape[:2])
    step = -(-longest // LIMIT)
    factor = max(1, int(NEAR / longest + 0.5))
    tiles = []
    for pixels in (row.raw, row.noised, row.sanitized, difference(row.raw, row.sanitized)):
        shown = pixels[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)
        tiles.append(Image.fromarray(np.repeat(shown, 3 // shown.shape[2], axis=2)))
    return tiles


def _caption(row: SheetRow) -> str:
    height, width = row.raw.shape[:2]
    change = np.abs(row.sanitized.astype(np.int16) - row.raw).mean()
    return f"{width} x {height} pixels, mean change {change:.1f} of 255"


# --- the PNG ---

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Line = tuple[str, Font, str]  # text, font, colour

PAPER, INK, FAINT = "#faf9f6", "#1c1b19", "#6f6b64"
MARGIN, GAP, NAMES, LINE = 40, 14, 250, 20  # pixels: the border, between tiles, column of names, height of a line


def _draw(rows: Sequence[SheetRow], title: str, facts: Mapping[str, str]) -> Image.Image:
    large, strong, small = (ImageFont.load_default(size) for size in (28, 16, 13))
    tiles = [_tiles(row) for row in rows]
    cell = max((row[0].width for row in tiles), default=NEAR)
    width = 2 * MARGIN + NAMES + len(COLUMNS) * (cell + GAP) - GAP
    heading: list[Line] = [(line, large, INK) for line in _wrapped(printable(title), large, width - 2 * MARGIN)[:1]]
    footer: list[Line] = [(line, small, FAINT) for line in _wrapped(_fact_line(facts), small, width - 2 * MARGIN)]
    columns: list[list[Line]] = [
        [(column, strong, INK), *((line, small, FAINT) for line in _wrapped(meaning, small, cell))]
        for column, meaning in COLUMNS
    ]
    names = [_name_lines(row, strong, small) for row in rows]
    heights = [max(images[0].height, LINE * len(name)) + GAP for images, name in zip(tiles, names, strict=True)]
    top = MARGIN + 48
    body = top + LINE * max(map(len, columns)) + GAP
    height = body + sum(heights) + GAP + LINE * len(footer) + MARGIN

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN - 8), heading)
    lefts = [MARGIN + NAMES + i * (cell + GAP) for i in range(len(COLUMNS))]
    for left, column in zip(lefts, columns, strict=True):
        _write(draw, (left, top), column)
    y = body
    for name, images, step in zip(names, tiles, heights, strict=True):
        _write(draw, (MARGIN, y - 2), name)
        for left, image in zip(lefts, images, strict=True):
            sheet.paste(image, (left, y))
        y += step
    _write(draw, (MARGIN, y + GAP), footer)
    return sheet


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Iterable[Line]) -> None:
    """Write lines of (text, font, colour) under one another."""
    x, y = at
    for text, font, colour in lines:
        draw.text((x, y), text, font=font, fill=colour)
        y += LINE


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """The text in lines of at most width pixels, broken at spaces where possible."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line] or [""]


def _name_lines(row: SheetRow, strong: Font, small: Font) -> list[Line]:
    """What stands to the left of a row; of a long name the first three lines."""
    name = _wrapped(printable(row.name), strong, NAMES - 2 * GAP)
    if len(name) > 3:
        name = [*name[:2], name[2][:-3] + "..."]
    caption = _wrapped(_caption(row), small, NAMES - 2 * GAP)
    return [(line, strong, INK) for line in name] + [(line, small, FAINT) for line in caption]


def _fact_line(facts: Mapping[str, str]) -> str:
    return " \N{MIDDLE DOT} ".join(f"{printable(name)}: {printable(value)}" for name, value in facts.items())


# --- the HTML page ---

STYLE = """
:root { color-scheme: light dark;
  --paper: #faf9f6; --ink: #1c1b19; --faint: #6f6b64; --line: #e2dfd8; --panel: #f1efe9; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191817; --ink: #eceae5; --faint: #a19c93; --line: #35332f; --panel: #232220; }
}
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem; }
p, li { max-width: 46rem; }
table { border-collapse: collapse; width: 100%; }
th { font-weight: 600; text-align: left; vertical-align: top; }
small { display: block; color: var(--faint); font-weight: 400; font-size: .8rem; line-height: 1.35; }
.sheet { table-layout: fixed; margin-top: 2rem; }
.sheet thead th { position: sticky; top: 0; z-index: 1; background: var(--paper);
  border-bottom: 1px solid var(--line); padding: .5rem .75rem .6rem 0; }
.sheet tbody th { padding: .9rem 1rem .9rem 0; overflow: hidden; overflow-wrap: anywhere; font-size: .95rem; }
.sheet td { padding: .9rem .75rem 0 0; vertical-align: top; }
.sheet img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.facts { width: auto; background: var(--panel); border-radius: 8px; }
.facts th, .facts td { padding: .3rem 1.25rem; overflow-wrap: anywhere; vertical-align: top; }
.facts th { color: var(--faint); font-weight: 400; }
.facts tr:first-child > * { padding-top: .8rem; }
.facts tr:last-child > * { padding-bottom: .8rem; }
@media (max-width: 40rem) {
  .sheet tr { display: grid; grid-template-columns: repeat(4, 1fr); }
  .sheet thead th:first-child, .sheet thead small { display: none; }
  .sheet thead th { font-size: .8rem; padding-right: .3rem; }
  .sheet tbody th { grid-column: 1 / -1; padding: 1rem 0 .2rem; }
  .sheet td { padding: .2rem .4rem 0 0; }
  .facts th, .facts td { padding: .3rem .6rem; }
}
"""

INTRODUCTION = """
<p>Whoever hands out training images can change some of them a little, too little to see, so that a model trained on
them makes chosen mistakes. dpclean adds random noise of a known strength to every image, which drowns small changes,
and lets a network that has learnt what photographs look like take the noise away again. Below are some of the images
on their way through.</p>
"""

PROMISE = """
<h2>What this output promises, and what it does not</h2>
<ul>
<li>Noise was drawn for every pixel of every image, with exactly the strength stated above.</li>
<li>A change that is small against the noise mostly drowns in it. So do fine details: compare the first column with the
third.</li>
<li>Sanitized images alone are <strong>not certified</strong>. A proof needs many copies, each with noise of its own,
and a model trained on every one of them; this is one copy.</li>
<li>Wrong labels, and changes large enough to see, are still there: noise hides what is small.</li>
</ul>
"""


def _page(rows: Sequence[SheetRow], title: str, facts: Mapping[str, str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}<small>{escape(meaning)}</small></th>' for name, meaning in COLUMNS)
    body = "\n".join(_table_row(row) for row in rows)
    table = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in facts.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_text(title)}</h1>
{INTRODUCTION}
<table class="sheet">
<thead><tr><th scope="col">Image</th>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
<h2>The facts of this run</h2>
<table class="facts">
{table}
</table>
{PROMISE}
</body>
</html>
"""


def _table_row(row: SheetRow) -> str:
    cells = "".join(
        f'<td><img src="{_data_uri(tile)}" width="{tile.width}" height="{tile.height}" alt="{escape(column)}"></td>'
        for tile, (column, _) in zip(_tiles(row), COLUMNS, strict=True)
    )
    return f'<tr><th scope="row"><bdi>{_text(row.name)}</bdi><small>{_caption(row)}</small></th>{cells}</tr>'


def _text(text: str) -> str:
    return escape(printable(text))


def _data_uri(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
