"""The sheet shows the very pixels it was given, and nothing that a name contains gets out of its place."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dpclean.report.contact_sheet import (
    COLUMNS,
    CROP,
    GAIN,
    Pixels,
    SheetRow,
    detailed,
    difference,
    printable,
    write_contact_sheet,
    write_sigma_sheet,
)

RAW, NOISED, SANITIZED = (250, 10, 20), (20, 240, 30), (10, 30, 230)


def flat(colour: tuple[int, int, int], height: int, width: int) -> Pixels:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def row(name: str = "cat/1.png", height: int = 32, width: int = 32) -> SheetRow:
    return SheetRow(name, *(flat(colour, height, width) for colour in (RAW, NOISED, SANITIZED)))


class Page(HTMLParser):
    """The tags, image sources, other addresses and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[Pixels] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" and value is not None:
                kind, _, data = value.partition(",")
                assert kind == "data:image/png;base64"
                self.images.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
            elif name in ("href", "action", "srcset") or name.startswith("on"):
                self.addresses.append(f"{name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_embeds_the_pixels_of_every_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    raw, noised, sanitized = rng.integers(0, 256, (3, 20, 32, 1), np.uint8)
    _, html = write_contact_sheet(tmp_path / "sheet", [SheetRow("grey.png", raw, noised, sanitized)], "title", {})
    images = Page(html.read_text("utf-8")).images
    assert len(images) == len(COLUMNS)
    for shown, pixels in zip(images, (raw, noised, sanitized, difference(raw, sanitized)), strict=True):
        assert shown.shape == (100, 160, 3)
        assert (shown[2::5, 2::5] == pixels).all()  # 32 pixels enlarged 5 times; grey in all three channels


def test_png_has_a_tile_of_each_state(tmp_path: Path) -> None:
    png, _ = write_contact_sheet(tmp_path / "sheet", [row(), row("b")], "title", {"sigma": "0.25"})
    sheet = np.asarray(Image.open(png))
    for colour in (RAW, NOISED, SANITIZED, tuple(difference(flat(RAW, 1, 1), flat(SANITIZED, 1, 1))[0, 0])):
        assert (sheet == colour).all(axis=2).sum() == 2 * 160 * 160


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (3, 5), (800, 600)])
def test_odd_sizes_are_shown_without_mixing_pixels(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 2, (height, width, 3), np.uint8) * 255
    _, html = write_contact_sheet(tmp_path / "sheet", [SheetRow("x", pixels, pixels, pixels)], "title", {})
    shown = Page(html.read_text("utf-8")).images[0]
    assert set(np.unique(shown)) <= {0, 255}
    assert max(shown.shape) <= 320


HOSTILE = "</th><script>alert(1)</script><img src=//evil.example/x>\u202egnp.exe\x00\x1b[31m\n\udcff&amp;"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    _, plain = write_contact_sheet(tmp_path / "a", [row("name")], "title", {"key": "value"})
    _, html = write_contact_sheet(tmp_path / "b", [row(HOSTILE)], HOSTILE, {HOSTILE: HOSTILE})
    page = Page(html.read_text("utf-8"))
    assert page.tags == Page(plain.read_text("utf-8")).tags
    assert page.addresses == []
    assert page.text.count("<script>alert(1)</script>") == 5  # title twice, name, fact and its value
    assert page.text.count(r"\u202egnp.exe\x00\x1b[31m\n\udcff&amp;") == 5
    assert all(c.isprintable() or c == "\n" for c in page.text)


@given(st.text(st.characters(exclude_categories=[]), max_size=40))
def test_any_name_makes_a_sheet(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("sheet")
    png, html = write_contact_sheet(folder / "sheet", [row(name, 2, 2)], name, {name: name})
    assert printable(name) in Page(html.read_text("utf-8")).text
    assert Image.open(png).width > 4 * 160


@given(*(arrays(np.uint8, (2, 3, 1)) for _ in range(2)))
def test_difference_is_amplified_about_mid_grey(raw: Pixels, sanitized: Pixels) -> None:
    change = sanitized.astype(int) - raw
    shown = difference(raw, sanitized).astype(int) - 128
    assert (np.sign(shown) == np.sign(change)).all()
    unclipped = np.abs(change * GAIN) < 128
    assert (shown[unclipped] == GAIN * change[unclipped]).all()


def test_name_with_dots_keeps_them(tmp_path: Path) -> None:
    png, html = write_contact_sheet(tmp_path / "contact.sheet", [], "no images", {})
    assert (png.name, html.name) == ("contact.sheet.png", "contact.sheet.html")
    assert png.exists() and html.exists()


def test_of_a_large_image_the_part_with_most_detail_is_shown_pixel_for_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    raw = np.full((700, 900, 3), 90, np.uint8)
    raw[400:500, 600:720] = rng.integers(0, 256, (100, 120, 3), np.uint8)
    noised, sanitized = rng.integers(0, 256, (2, *raw.shape), np.uint8)
    png, html = write_contact_sheet(tmp_path / "sheet", [SheetRow("large", raw, noised, sanitized)], "title", {})
    images = Page(html.read_text("utf-8")).images
    part = detailed(raw, CROP)
    assert part[0].start <= 400 and 500 <= part[0].stop and part[1].start <= 600 and 720 <= part[1].stop
    assert len(images) == 2 * len(COLUMNS)
    for shown, pixels in zip(images[4:], (raw, noised, sanitized, difference(raw, sanitized)), strict=True):
        assert shown.shape == (CROP, CROP, 3) and (shown == pixels[part]).all()
    sheet = np.asarray(Image.open(png))
    where = np.argwhere((sheet == noised[part][0, 0]).all(axis=2))
    assert any((sheet[y : y + CROP, x : x + CROP] == noised[part]).all() for y, x in where if y + CROP <= len(sheet))


@pytest.mark.parametrize(("height", "width"), [(1, 900), (900, 1), (3, 500), (321, 481), (240, 1000)])
@pytest.mark.parametrize("edge", [1, 5, CROP, 512])
def test_the_part_with_most_detail_is_as_large_as_there_is_room(height: int, width: int, edge: int) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (height, width, 1), np.uint8)
    assert pixels[detailed(pixels, edge)].shape == (min(edge, height), min(edge, width), 1)


def test_a_sheet_of_noise_levels_shows_each_beside_the_raw_image(tmp_path: Path) -> None:
    raw, weak, strong = np.random.default_rng(5).integers(0, 256, (3, 16, 20, 1), np.uint8)
    rows = [("one", raw, [weak, strong])]
    png, html = write_sigma_sheet(tmp_path / "sheet", rows, [0.1, 0.5], "title", {"denoiser": "natural"})
    page = Page(html.read_text("utf-8"))
    assert [shown[4::8, 4::8, 0].tolist() for shown in page.images] == [i[..., 0].tolist() for i in (raw, weak, strong)]
    assert "sigma 0.1" in page.text and "sigma 0.5" in page.text and "128 grey levels" in page.text
    assert page.addresses == [] and Image.open(png).width > 3 * 160
