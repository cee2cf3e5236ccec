"""Pages to look at, each as a PNG and as one HTML file: what a run did, and what several noise levels would do.

Names come from data that nobody trusts. They are shown escaped: no control or direction character and no
markup of theirs reaches the page, and the page may load nothing and run nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dpclean.errors import printable
from dpclean.report.html import picture, render

Pixels = NDArray[np.uint8]

GAIN = 3  # a change of one grey level is drawn as this many
NEAR = 160  # pixels: images smaller than this are enlarged by a whole factor to about this
LIMIT = 320  # pixels: of larger images every second, third, ... pixel is shown; averaging would hide the noise
CROP = 240  # pixels: of those the square with the most detail is shown too, pixel for pixel
LOOK = 4  # pixels: how far apart the places are where detail is looked for

COLUMNS = (
    ("Raw", "as it came in"),
    ("Noised", "random noise added to every pixel"),
    ("Sanitized", "what the denoiser made of it: the output"),
    (f"Difference x{GAIN}", "sanitized minus raw; mid-grey is no change"),
)


Columns = Sequence[tuple[str, str]]  # title, meaning


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One image in its three states, uint8 [H,W,C] of one shape, C 1 or 3; noised is clipped to 0..255."""

    name: str
    raw: Pixels
    noised: Pixels
    sanitized: Pixels


@dataclass(frozen=True, slots=True)
class _Row:
    """An image in all states that a page shows, of one shape, the raw one first."""

    name: str
    caption: str
    states: tuple[Pixels, ...]


@dataclass(frozen=True, slots=True)
class _Words:
    """What a page says around its pictures; template: of the page, which has the rest."""

    title: str
    facts: Mapping[str, str]
    template: str


def write_contact_sheet(
    path_stem: Path, rows: Sequence[SheetRow], title: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write path_stem + ".png" and path_stem + ".html" (one file, opens offline) and return both paths.

    facts: what a reader should know of the run, in the order shown ("sigma": "0.25", ...).
    """
    shown = [
        _Row(row.name, _caption(row), (row.raw, row.noised, row.sanitized, difference(row.raw, row.sanitized)))
        for row in rows
    ]
    return _write_sheet(path_stem, shown, COLUMNS, _Words(title, facts, "sanitize.html"))


def write_sigma_sheet(
    path_stem: Path,
    rows: Sequence[tuple[str, Pixels, Sequence[Pixels]]],
    sigmas: Sequence[float],
    title: str,
    facts: Mapping[str, str],
) -> tuple[Path, Path]:
    """Like write_contact_sheet: images (name, raw, sanitized at each of the noise levels), to choose one by eye."""
    columns = [COLUMNS[0], *((f"sigma {sigma:g}", f"sanitized; {255 * sigma:.0f} grey levels") for sigma in sigmas)]
    shown = [_Row(name, f"{raw.shape[1]} x {raw.shape[0]} pixels", (raw, *sanitized)) for name, raw, sanitized in rows]
    return _write_sheet(path_stem, shown, columns, _Words(title, facts, "sigmas.html"))


def _write_sheet(path_stem: Path, rows: Sequence[_Row], columns: Columns, words: _Words) -> tuple[Path, Path]:
    png = path_stem.with_name(path_stem.name + ".png")
    html = path_stem.with_name(path_stem.name + ".html")
    _draw(rows, columns, words).save(png)
    html.write_text(_page(rows, columns, words), encoding="utf-8")
    return png, html


def difference(raw: Pixels, sanitized: Pixels) -> Pixels:
    """Sanitized minus raw, GAIN times, about mid-grey (128), clipped to 0..255; same shape."""
    amplified: Pixels = np.clip(128 + GAIN * (sanitized.astype(np.int16) - raw), 0, 255).astype(np.uint8)
    return amplified


def detailed(pixels: Pixels, edge: int) -> tuple[slice, slice]:
    """Rows and columns of the part, at most edge x edge, in which neighbouring pixels [H,W,C] differ most."""
    grey = pixels[::LOOK, ::LOOK].mean(axis=2)
    change = np.zeros(grey.shape)
    change[1:] += np.abs(np.diff(grey, axis=0))
    change[:, 1:] += np.abs(np.diff(grey, axis=1))
    sums = np.pad(change, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    height, width = (min(-(-edge // LOOK), size) for size in grey.shape)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = (LOOK * int(place) for place in np.unravel_index(inside.argmax(), inside.shape))
    top, left = (max(0, min(at, size - edge)) for at, size in zip((top, left), pixels.shape, strict=False))
    return slice(top, top + edge), slice(left, left + edge)


def _tiles(row: _Row) -> list[Image.Image]:
    """The images of a row, RGB, as large as they are shown; no pixel is mixed with another."""
    longest = max(row.states[0].shape[:2])
    step = -(-longest // LIMIT)
    factor = max(1, int(NEAR / longest + 0.5))
    return [_picture(pixels[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)) for pixels in row.states]


def _crops(row: _Row) -> list[Image.Image]:
    """The part with the most detail, pixel for pixel, of images whose tiles leave pixels out; else nothing."""
    raw = row.states[0]
    if max(raw.shape[:2]) <= LIMIT:
        return []
    part = detailed(raw, CROP)
    return [_picture(pixels[part]) for pixels in row.states]


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))


def _caption(row: SheetRow) -> str:
    height, width = row.raw.shape[:2]
    change = np.abs(row.sanitized.astype(np.int16) - row.raw).mean()
    return f"{width} x {height} pixels, mean change {change:.1f} of 255"


# --- the PNG ---

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Line = tuple[str, Font, str]  # text, font, colour

PAPER, INK, FAINT = "#faf9f6", "#1c1b19", "#6f6b64"
MARGIN, GAP, NAMES, LINE = 40, 14, 250, 20  # pixels: the border, between tiles, column of names, height of a line


def _draw(rows: Sequence[_Row], columns: Columns, words: _Words) -> Image.Image:
    large, strong, small = (ImageFont.load_default(size) for size in (28, 16, 13))
    lines = [[tiles for tiles in (_tiles(row), _crops(row)) if tiles] for row in rows]
    cell = max((tiles[0].width for images in lines for tiles in images), default=NEAR)
    width = 2 * MARGIN + NAMES + len(columns) * (cell + GAP) - GAP
    title = _wrapped(printable(words.title), large, width - 2 * MARGIN)[:1]
    heading: list[Line] = [(line, large, INK) for line in title]
    facts = _wrapped(_fact_line(words.facts), small, width - 2 * MARGIN)
    footer: list[Line] = [(line, small, FAINT) for line in facts]
    heads: list[list[Line]] = [
        [(column, strong, INK), *((line, small, FAINT) for line in _wrapped(meaning, small, cell))]
        for column, meaning in columns
    ]
    names = [_name_lines(row, strong, small) for row in rows]
    heights = [
        max(sum(tiles[0].height + GAP for tiles in images), LINE * len(name) + GAP)
        for images, name in zip(lines, names, strict=True)
    ]
    top = MARGIN + 48
    body = top + LINE * max(map(len, heads)) + GAP
    height = body + sum(heights) + GAP + LINE * len(footer) + MARGIN

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN - 8), heading)
    lefts = [MARGIN + NAMES + i * (cell + GAP) for i in range(len(columns))]
    for left, head in zip(lefts, heads, strict=True):
        _write(draw, (left, top), head)
    y = body
    for name, images, step in zip(names, lines, heights, strict=True):
        _write(draw, (MARGIN, y - 2), name)
        below = y
        for tiles in images:
            for left, image in zip(lefts, tiles, strict=True):
                sheet.paste(image, (left, below))
            below += tiles[0].height + GAP
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


def _name_lines(row: _Row, strong: Font, small: Font) -> list[Line]:
    """What stands to the left of a row; of a long name the first three lines."""
    name = _wrapped(printable(row.name), strong, NAMES - 2 * GAP)
    if len(name) > 3:
        name = [*name[:2], name[2][:-3] + "..."]
    caption = _wrapped(f"{row.caption}{_cropped(row)}", small, NAMES - 2 * GAP)
    return [(line, strong, INK) for line in name] + [(line, small, FAINT) for line in caption]


def _cropped(row: _Row) -> str:
    return "; below, a part of them one for one" if _crops(row) else ""


def _fact_line(facts: Mapping[str, str]) -> str:
    return " \N{MIDDLE DOT} ".join(f"{printable(name)}: {printable(value)}" for name, value in facts.items())


# --- the HTML page ---


def _page(rows: Sequence[_Row], columns: Columns, words: _Words) -> str:
    return render(
        words.template,
        title=words.title,
        run_facts=words.facts,
        columns=columns,
        rows=[
            {
                "name": row.name,
                "caption": f"{row.caption}{_cropped(row)}",
                "tiles": [picture(image) for image in _tiles(row)],
                "crops": [picture(image) for image in _crops(row)],
            }
            for row in rows
        ],
    )
