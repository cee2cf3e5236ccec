"""Whatever a page is given leaves as text, and a template that asks for what it was not given is no page."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

from dpclean.report import html

TEMPLATES = Path(html.__file__).parent / "templates"
PAGES = sorted(path.name for path in TEMPLATES.glob("*.html") if path.name not in ("base.html", "pieces.html"))


def text(source: str, **values: object) -> str:
    return html._environment().from_string(source).render(**values)


def test_values_leave_escaped_in_text_attributes_and_macros() -> None:
    hostile = "\"><script>x</script>\u202e\udcff\n'"
    for source in ("{{ value }}", '<p title="{{ value }}">', "{{ [value] | first }}", "{{ value ~ value }}"):
        made = text(source, value=hostile)
        assert "<script" not in made and "\u202e" not in made and "\udcff" not in made and "\n" not in made
        assert r"\u202e\udcff\n" in made and "&lt;script&gt;" in made
    pieces = "{% from 'pieces.html' import bullets, cards, facts, name, table %}"
    rows = (
        "{{ bullets([v]) }}{{ cards([(v, v, v)]) }}{{ facts([(v, v)]) }}{{ name(v) }}{{ table([v], [[v]], names=[0]) }}"
    )
    made = text(pieces + rows, v=hostile)
    assert made.count("&lt;script&gt;") == 9 and "<script" not in made


def test_markup_is_put_in_as_it_is_and_numbers_as_they_are_written() -> None:
    assert text("{{ m }} {{ n }} {{ none }}", m=Markup("<b>"), n=3, none=None) == "<b> 3 None"


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        text("{{ nowhere }}")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_nothing_loads_nothing_and_switches_no_escaping_off(page: str) -> None:
    source = (TEMPLATES / page).read_text("utf-8")
    base = (TEMPLATES / "base.html").read_text("utf-8")
    assert PAGES and "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in base
    for text in (source, base, (TEMPLATES / "pieces.html").read_text("utf-8")):
        for word in ("<script", "http:", "https:", "@import", "url(", "|safe", "| safe", "autoescape", "onload"):
            assert word not in text
