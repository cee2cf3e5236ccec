"""Pages that open offline and show what strangers wrote: one file, no script, nothing loaded.

A page is a template of `templates/`. Everything that it is given is text and leaves escaped, with what does not print
written as an escape; only what is of the type Markup is put in as it is.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dpclean.errors import printable

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """An image inside a page: its bytes as an address, and its size in pixels."""

    source: str
    width: int
    height: int


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("dpclean.report"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """The whole file that a template makes of these values."""
    return _environment().get_template(template).render(**values) + "\n"


def picture(image: Image.Image) -> Picture:
    """An image as it is, without loss."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return Picture("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), image.width, image.height)
