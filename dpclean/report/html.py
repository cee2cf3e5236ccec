"""Pieces of a page that opens offline and shows what strangers wrote: one file, no script, nothing loaded.

Everything a piece is given is text and leaves escaped; only pieces, which are of the type Html, are put in as they are.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from html import escape

import numpy as np
from numpy.typing import NDArray

from dpclean.errors import printable

NEAR = 128  # pixels: images smaller than this are enlarged by a whole factor to about this, larger ones made smaller


class Html(str):
    """Markup of our own; any other text is escaped."""

    __slots__ = ()


def html(piece: object) -> Html:
    """A piece as it is; anything else as text, with what does not print written as an escape."""
    return piece if isinstance(piece, Html) else Html(escape(printable(str(piece))))


def joined(*parts: object) -> Html:
    """The parts one after the other, each a piece or a text."""
    return Html("".join(html(part) for part in parts))


def name(text: str) -> Html:
    """A name from a stranger, kept from turning the direction of the text around it."""
    return Html(f"<bdi>{html(text)}</bdi>")


def strong(text: object) -> Html:
    """The words that must not be missed."""
    return Html(f"<strong>{html(text)}</strong>")


def small(*parts: object) -> Html:
    """A line of its own in small print."""
    return Html(f"<small>{joined(*parts)}</small>")


def heading(text: str) -> Html:
    """The heading of a section."""
    return Html(f"<h2>{html(text)}</h2>")


def paragraph(*parts: object, kind: str = "plain") -> Html:
    """The parts as one paragraph; kind "warning" catches the eye, "faint" is an aside."""
    return Html(f'<p class="{kind}">{joined(*parts)}</p>')


def bullets(sentences: Iterable[object]) -> Html:
    """A list with one item a sentence."""
    return Html("<ul>" + "\n".join(f"<li>{html(sentence)}</li>" for sentence in sentences) + "</ul>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, words: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where the page is too narrow; columns are numbers but those listed in words."""
    kinds = ["words" if i in words else "number" for i in range(len(head))]

    def line(tag: str, cells: Sequence[object]) -> str:
        inner = (f'<{tag} class="{kind}">{html(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return Html(f'<div class="wide"><table><thead>{line("th", head)}</thead>\n<tbody>\n{body}\n</tbody></table></div>')


def definitions(entries: Iterable[tuple[object, object]], kind: str) -> Html:
    """What is named and what it is; kind "cards" for a few that catch the eye, "facts" for a list."""
    body = "\n".join(f"<div><dt>{html(term)}</dt><dd>{html(value)}</dd></div>" for term, value in entries)
    return Html(f'<dl class="{kind}">\n{body}\n</dl>')


def folded(summary: str, *pieces: object) -> Html:
    """Pieces that open on request."""
    return Html(f"<details><summary>{html(summary)}</summary>\n{joined(*pieces)}</details>")


def picture(pixels: NDArray[np.uint8], caption: object) -> Html:
    """An image, uint8 [H,W,C] with C 1 or 3, over its caption; small ones enlarged without mixing pixels."""
    from PIL import Image

    factor = max(1, round(NEAR / max(pixels.shape[:2])))
    shown = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    image = Image.fromarray(np.repeat(shown, 3 // shown.shape[2], axis=2))
    image.thumbnail((2 * NEAR, 2 * NEAR))
    file = io.BytesIO()
    image.save(file, format="PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return Html(f'<figure><img src="{source}" {size} alt=""><figcaption>{html(caption)}</figcaption></figure>')


def pictures(figures: Iterable[Html]) -> Html:
    """Figures side by side, as many in a row as fit."""
    return Html(f'<div class="pictures">{joined(*figures)}</div>')


def share(value: object, *, up: bool = False) -> str:
    """A share of 1 in percent with one decimal, rounded down, or up where the value is an upper bound."""
    percent = (Decimal(str(value)) * 100).quantize(Decimal("0.1"), ROUND_CEILING if up else ROUND_FLOOR)
    return f"{percent} %"


def document(title: str, *pieces: object) -> str:
    """The whole file."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html(title)}</h1>
{joined(*pieces)}
</body>
</html>
"""


STYLE = """
:root { color-scheme: light dark; --paper: #faf9f6; --ink: #1c1b19; --faint: #6f6b64; --line: #e2dfd8; --panel: #f1efe9;
  --warn: #b0431e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191817; --ink: #eceae5; --faint: #a19c93; --line: #35332f; --panel: #232220; --warn: #ee9470; }
}
body { margin: 0 auto; max-width: 58rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; }
p, li { max-width: 44rem; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
pre { background: var(--panel); border-radius: 8px; padding: .7rem 1rem; overflow-x: auto; }
.faint { color: var(--faint); font-size: .92rem; }
.warning { border-left: 4px solid var(--warn); border-radius: 0 8px 8px 0; background: var(--panel);
  padding: .7rem 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem 1.4rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; font-size: .9rem; vertical-align: bottom; }
td.words { overflow-wrap: anywhere; min-width: 6rem; }
.number { text-align: right; white-space: nowrap; }
dl.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.cards div { background: var(--panel); border-radius: 8px; padding: .8rem 1rem; }
.cards dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
small { display: block; color: var(--faint); font-weight: 400; font-size: .85rem; line-height: 1.4; }
dt { color: var(--faint); font-size: .9rem; }
dl.facts div { display: grid; grid-template-columns: 11rem 1fr; gap: 1rem; border-bottom: 1px solid var(--line);
  padding: .3rem 0; }
.facts dd { margin: 0; min-width: 0; }
.dpclean-curve { display: block; width: 100%; max-width: 44rem; height: auto; margin: 1rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
figcaption bdi { display: inline-block; max-height: 4.2em; overflow: hidden; vertical-align: bottom; }
figcaption { font-size: .9rem; line-height: 1.4; padding-top: .35rem; }
summary { cursor: pointer; font-weight: 600; margin-top: 1rem; }
@media (max-width: 34rem) {
  h1 { font-size: 1.5rem; }
  svg.dpclean-curve text { font-size: 16px; }
  th, td { padding-right: .7rem; font-size: .85rem; }
  th.number { white-space: normal; overflow-wrap: normal; }
  dl.facts div { grid-template-columns: 1fr; gap: 0; }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); }
}
"""
