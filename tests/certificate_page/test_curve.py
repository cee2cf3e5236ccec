"""The curve draws what the certificate says: no more, the ceiling always, and the same as SVG and as PNG."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpclean.certificate.certificate import build
from dpclean.certificate.whole_images import WORD
from dpclean.certificate_page.curve import _ticks, curve, images_curve
from dpclean.certificate_page.curve import lower_steps as lower_corners
from dpclean.certificate_page.curve import steps as corners
from dpclean.report import plot
from dpclean.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, ROLES, SCALE, TOP, WIDTH
from tests.certificate.ballots import of_parts
from tests.certificate.certificates import certificate, draw, drawn

SVG = "{http://www.w3.org/2000/svg}"


def height(line: list[tuple[float, float]], radius: float) -> float:
    """The height of a line of steps at a radius; where it falls, the upper end."""
    place = bisect_left([r for r, _ in line], radius)
    return line[place][1] if place < len(line) else 0.0


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def places(svg: str, role: str) -> list[tuple[float, float]]:
    """The corners of the line of a role."""
    (group,) = (group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if group.get("class") == role)
    (path,) = group.iter(f"{SVG}path")
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def curve_svg(made: dict[str, Any]) -> str:
    return plot.svg(curve(made))


def columns(png: bytes, role: str) -> list[int]:
    """The columns of the PNG, below the legend, in which a colour stands from near the top to near the bottom."""
    red, green, blue = (int(ROLES[role][0][i : i + 2], 16) for i in (1, 3, 5))
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[TOP * SCALE : BOTTOM * SCALE]
    found = (image == (red, green, blue)).all(axis=2)
    return [int(column) for column in np.flatnonzero(found.any(axis=0))]


def test_the_curve_is_the_share_that_is_right_at_every_radius() -> None:
    made = drawn()
    right = [float(p["certified_radius"]) for p in made["points"] if p["class"] == p["label"]]
    radii = [float(row["radius"]) for row in made["accuracy"]["at"]] + right
    for radius in radii:
        assert height(corners(made), radius) == sum(r >= radius for r in right) / len(made["points"])
    for row in made["accuracy"]["at"]:
        assert height(corners(made), float(row["radius"])) * made["accuracy"]["labelled"] == pytest.approx(
            row["certified"]
        )


def test_abstentions_and_wrong_classes_stay_in_the_denominator() -> None:
    votes = np.zeros((100, 4), np.int32)
    votes[:50, 2] = 1  # a tie abstains
    made = certificate(votes, np.array([0, 1, 0, -1]), 2)
    assert [p["class"] for p in made["points"]] == [0, 0, -1, 0]
    assert corners(made)[0] == (0.0, 1 / 3)  # the fourth has no label


def test_without_labels_it_is_the_share_certified() -> None:
    votes, _ = draw(200, 60, 5)
    made = certificate(votes, None, 5)
    assert corners(made)[0][1] == made["summary"]["certified"] / 60
    assert "share of test points certified" in texts(curve_svg(made))
    assert not any("lower" in text for text in texts(curve_svg(made)))


def test_the_lower_line_is_nowhere_above_what_the_table_says() -> None:
    made = drawn()
    at = [(float(row["radius"]), float(row["lower"])) for row in made["accuracy"]["at"]]
    line = lower_corners(made)
    for (before, _), (radius, lower) in zip(at, at[1:], strict=False):
        for between in (radius, (before + radius) / 2):
            assert height(line, between) == lower


def of_shares(labels: bool = True, **changed: Any) -> dict[str, Any]:
    votes, known = draw(400, 40, 4)
    return certificate(votes, known if labels else None, 4, subsample=WORD // 50, **changed)


def of_forty_parts() -> dict[str, Any]:
    votes, known = draw(40, 40, 4)
    rows = (votes[..., None] + np.arange(4)) % 4  # the vote first, the others in turn
    return build(of_parts(rows, known, partitions={"parts": 40, "by": "name"}), "77" * 32)


@pytest.mark.parametrize("make", [of_shares, of_forty_parts])
def test_against_whole_images_the_lower_line_is_nowhere_above_what_the_table_says(
    make: Callable[[], dict[str, Any]],
) -> None:
    made = make()
    rows = made["accuracy_by_images"]["images_inserted"]
    assert len(rows) > 3 and float(rows[0]["lower"]) > 0
    drawing = images_curve(made)
    (line,) = (line.places for line in drawing.lines if line.role == "lower")
    for before, row in zip(rows, rows[1:], strict=False):
        for between in (row["images"], (before["images"] + row["images"]) / 2):
            assert height(list(line), between) == float(row["lower"])
    shown = texts(plot.svg(drawing))
    level = f"{100 * float(made['accuracy']['confidence']):g} %"
    assert f"long dashes: lower bound for images put in, {level} confidence" in shown
    assert "" not in shown and BOTTOM + 23 + 8 + plot.ROW * len(drawing.notes) < HEIGHT - 4  # below it is no room


@pytest.mark.parametrize("changed", [{"labels": False}, {"exploratory": True}])
def test_against_whole_images_no_lower_line_without_labels_nor_of_what_is_not_proved(changed: dict[str, Any]) -> None:
    drawing = images_curve(of_shares(**changed))
    assert {line.role for line in drawing.lines} == {"curve", "loss", "third"}
    assert not any("lower" in text for text in texts(plot.svg(drawing)))


@pytest.mark.parametrize("runs", [17, 200, 1000])
def test_the_ceiling_is_drawn_where_it_is_and_labelled(runs: int) -> None:
    made = drawn(runs=runs, points=12)
    svg = curve_svg(made)
    assert f"ceiling {made['summary']['ceiling']}: the most {runs:,} runs can show" in texts(svg)
    (x0, _), (x1, _) = places(svg, "limit")
    assert x0 == x1
    ends = [x for x, _ in places(svg, "curve")]
    assert max(ends) <= x1 + 0.01 < RIGHT  # no radius is beyond it
    largest = max((float(p["certified_radius"]) for p in made["points"] if p["class"] == p["label"]), default=0.0)
    assert (max(ends) - LEFT) / (x1 - LEFT) == pytest.approx(largest / float(made["summary"]["ceiling"]), abs=1e-4)


def test_svg_and_png_draw_the_same() -> None:
    made = drawn()
    svg, png = curve_svg(made), plot.png(curve(made))
    assert Image.open(io.BytesIO(png)).size == (WIDTH * SCALE, HEIGHT * SCALE)
    (x, _), _ = places(svg, "limit")
    assert abs(np.mean(columns(png, "limit")) - x * SCALE) < 2
    drawn_to = max(x for x, y in places(svg, "curve") if y < BOTTOM)
    assert abs(max(columns(png, "curve")) - drawn_to * SCALE) <= 3


def test_ticks_say_radius_and_budget() -> None:
    shown = texts(curve_svg(drawn(runs=1000)))
    assert shown[shown.index("0.2") + 1] == "2,600"  # the largest integer below (255 x 0.2)^2 = 2601


@given(st.floats(1e-6, 100))
def test_ticks_are_few_round_and_within_reach(reach: float) -> None:
    ticks = _ticks(reach)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] == 0 and float(ticks[-1]) <= reach * (1 + 1e-12)


def test_when_every_point_abstains_the_picture_says_so() -> None:
    votes = np.tile(np.array([[0], [1]], np.int32), (50, 7))
    svg = curve_svg(certificate(votes, np.zeros(7, np.int64), 2))
    assert "every test point abstains" in texts(svg)
    assert {y for _, y in places(svg, "curve")} == {float(BOTTOM)}


def test_an_exploratory_curve_certifies_nothing() -> None:
    made: dict[str, Any] = drawn(exploratory=True)
    svg = curve_svg(made)
    assert "certif" not in svg
    assert any("not proved" in text for text in texts(svg))
    assert not any("lower bound" in text for text in texts(svg))


def test_the_file_loads_and_runs_nothing() -> None:
    svg = curve_svg(drawn(classes=["<script>", '"x'], points=10))
    assert {element.tag for element in ElementTree.fromstring(svg).iter()} == {
        SVG + tag for tag in ("svg", "title", "style", "g", "path", "text")
    }
    assert "url(" not in svg and "href" not in svg and "@import" not in svg and " id=" not in svg


def test_the_picture_has_colours_for_light_and_dark_and_no_style_for_what_surrounds_it() -> None:
    svg = curve_svg(drawn())
    style = ElementTree.fromstring(svg).findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert all(selector.strip().startswith((".dpclean-curve", "@media")) for selector in style.splitlines() if selector)
    for light, dark, *_ in ROLES.values():
        assert style.count(light) == style.count(dark) == 1 and svg.count(light) == 1  # else by its role
    assert "#000000" not in svg and "#ffffff" not in svg


def test_settings_of_the_machine_do_not_change_the_picture(tmp_path: Path) -> None:
    program = """
import sys, hashlib
from dpclean.report.plot import Line, Plot, png, svg
drawing = Plot("title", [Line("curve", "$label$", [(0, 1), (1, 0.5)])], 1.0, ("row",), [(0.5, ("half",))])
print(hashlib.sha256(svg(drawing).encode() + png(drawing)).hexdigest())
"""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nsvg.fonttype: path\nfont.size: 30\nsavefig.dpi: 10\n")
    (tmp_path / "empty").mkdir()
    printed = [
        subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (tmp_path, tmp_path / "empty")
    ]
    assert printed[0] == printed[1] != ""
