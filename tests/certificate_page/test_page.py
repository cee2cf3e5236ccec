"""The page shows what the certificate says, says what it does not, and lets nothing out of a stranger's name."""

from __future__ import annotations

import base64
import copy
import io
import re
from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpclean.certificate_page.page import CLASS_MULTIPLES, MULTIPLES, Example, _example_in, report_html
from dpclean.errors import printable
from dpclean.report.percent import share
from tests.certificate.certificates import certificate, draw, drawn


class Page(HTMLParser):
    """The tags, images, addresses and text of a page; of its tables the cells; warnings apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[np.ndarray] = []
        self.addresses: list[str] = []
        self.cells: list[list[str]] = []
        self.warnings: list[str] = []
        self.text = ""
        self.chunks: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    @property
    def prose(self) -> str:
        """The text with its lines joined."""
        return " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self._open.append("warning" if given.get("class") == "warning" else tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
        elif given.get("class") == "warning":
            self.warnings.append("")
        for name, value in attrs:
            if name == "src" and value is not None:
                kind, _, data = value.partition(",")
                assert kind == "data:image/png;base64"
                self.images.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
            elif name in ("href", "action", "srcset", "xlink:href") or name.startswith("on"):
                self.addresses.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() not in (tag, "warning"):
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        self.chunks.append(data)
        if {"td", "th"} & set(self._open):
            self.cells[-1][-1] += data
        if "warning" in self._open:
            self.warnings[-1] += data


def shown(made: dict[str, Any], examples: list[Example] | None = None) -> Page:
    return Page(report_html(made, examples or []))


def flat(colour: int, height: int = 32, width: int = 32, channels: int = 3) -> np.ndarray:
    return np.full((height, width, channels), colour, np.uint8)


# --- the figures ---


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def test_every_number_on_the_page_comes_from_the_certificate() -> None:
    made = drawn(runs=211, points=67, alpha="0.003")
    allowed = {"0", "1", "255", "100", "256"}  # the two scales of pixels; of the axis; SHA-256
    for leaf in leaves(made):
        text = str(leaf)
        allowed |= {text, *NUMBER.findall(text)}
        if isinstance(leaf, int):
            allowed.add(f"{leaf:,}")
        elif re.fullmatch(r"[01](\.\d+)?", text):
            for rounding in (ROUND_FLOOR, ROUND_CEILING):
                allowed.add(str((Decimal(text) * 100).quantize(Decimal("0.1"), rounding)))
            allowed.add(f"{(Decimal(text) * 100).normalize():f}")
    page = shown(made)
    largest = max(point["budget"] for point in made["points"])
    wrong = sum(p["class"] >= 0 and p["class"] != p["label"] for p in made["points"])
    allowed |= {f"{largest // 4:,}", str(wrong), str(Decimal("0.003") * 67), *MULTIPLES, *CLASS_MULTIPLES}
    allowed |= {str(len(made["terms"]["classes"]))}
    chunks = page.chunks
    axis = chunks.index("0 %"), next(i for i, chunk in enumerate(chunks) if chunk.startswith("ceiling "))
    numbers = NUMBER.findall(" ".join(chunks[: axis[0]] + chunks[axis[1] :]))
    assert [number for number in numbers if number not in allowed] == []
    assert len(set(numbers)) > 60


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("summary", "certified"), 7654321, "7,654,321 of"),
        (("summary", "abstained"), 7654321, "7,654,321nothing is said about these"),
        (("summary", "failed_runs"), 7654321, "Of the runs 7,654,321 failed; they are counted"),
        (("terms", "values"), 7654321, "These images have 7,654,321 pixel values"),
        (("summary", "ceiling"), "7.654321", "ceiling 7.654321"),
        (("summary", "largest_radius"), "7.654321", "7.654321, the largest radius here"),
        (("summary", "median_radius"), "7.654321", "median 7.654321"),
        (("terms", "sigma"), "7.654321", "sigma 7.654321"),
        (("terms", "alpha"), "0.07654321", "probability of at most 0.07654321, over"),
        (("terms", "tau"), "0.07654321", "0.07654321"),
        (("accuracy", "labelled"), 7654321, "of all 7,654,321 with a label"),
        (("accuracy", "j"), 7654321, "allows for 7,654,321 false"),
        (("accuracy_certificate", "alpha"), "0.07654321", "at most 0.07654321 on top"),
        (("job",), "7654321" * 9, "7654321" * 9),
        (("votes_sha256",), "7654321" * 9, "7654321" * 9),
    ],
)
def test_each_figure_is_read_and_not_computed(path: tuple[str, ...], value: object, expected: str) -> None:
    made = copy.deepcopy(drawn())
    inner: Any = made
    for key in path[:-1]:
        inner = inner[key]
    assert path[-1] in inner
    inner[path[-1]] = value
    assert expected in shown(made).prose


def test_the_table_has_counts_accuracies_and_lower_bounds_by_radius() -> None:
    made = drawn()
    cells = shown(made).cells
    start = cells.index(["radius", "budget", "right", "certified accuracy", "lower bound"]) + 1
    rows = [row for row in made["accuracy"]["at"] if row["certified"]]
    assert len(rows) > 3
    for row, written in zip(rows, cells[start : start + len(rows)], strict=True):
        accuracy, lower = share(row["certified_accuracy"]), share(row["lower"])
        assert written == [row["radius"], f"{row['budget']:,}", str(row["certified"]), accuracy, lower]


@given(st.integers(0, 10**18))
def test_shares_are_rounded_towards_claiming_less(units: int) -> None:
    exact = Decimal(units) / 10**18 * 100
    low, high = (Decimal(share(str(Decimal(units) / 10**18), up=up).split()[0]) for up in (False, True))
    assert exact - Decimal("0.1") < low <= exact <= high < exact + Decimal("0.1")


def test_expected_false_statements_and_the_whole_family_are_told_apart() -> None:
    votes, labels = draw(400, 60, 5)
    point, whole = (shown(certificate(votes, labels, 5, family=family)).text for family in ("point", "all"))
    assert "at most 0.06 of the 60 test images have a false one" in point and "for each statement" in point
    assert "that any of these is false is at most 0.001" in whole and "for all statements together" in whole


# --- what it must not let a reader believe ---


def test_the_attack_table_says_that_published_attacks_are_not_covered() -> None:
    made = drawn()
    page = shown(made)
    assert "Published attacks are not covered" in page.text
    assert "They are NOT covered by anything that is shown here." in page.text
    written = {cells[0]: cells[1:] for cells in page.cells if len(cells) == 3}
    assert any(not size["covered_by_largest"] for size in made["attack_sizes"])
    for size in made["attack_sizes"]:
        assert written[size["change"]] == [size["distance"], "yes" if size["covered_by_largest"] else "no"]


def test_a_page_on_whole_images_neither_denies_nor_exceeds_what_it_claims() -> None:
    without = drawn(subsample=2**25, sigma="0")
    assert max(point["images_changed"] for point in without["points"]) > 0
    assert not any("larger than the radius" in sentence for sentence in without["not_covered"])
    for made in (without, drawn(subsample=2**25)):
        assert any(sentence.startswith("Changes of the test image: where whole") for sentence in made["not_covered"])
        assert "whoever got a file left out has deleted an image, and each" in " ".join(made["not_covered"])
        page = shown(made).prose
        assert "NOT covered by anything" not in page
        assert "runs 2 failed" not in page and "took too little to train on, or failed" in page
    assert "Published attacks are not covered by a radius" in page


def test_it_does_not_say_so_where_everything_in_the_table_is_covered() -> None:
    made = copy.deepcopy(drawn())
    for size in made["attack_sizes"]:
        size["covered_by_largest"] = True
    assert "NOT covered" not in shown(made).text


def test_assumptions_and_limits_are_there_as_sentences() -> None:
    made = drawn()
    assert made["assumptions"] and made["not_covered"]
    text = shown(made).text
    for sentence in made["assumptions"] + made["not_covered"]:
        assert sentence in text
    assert "dpclean verify FOLDER" in text
    assert "That the votes come from honest runs is the word of whoever issued them." in shown(made).prose


@pytest.mark.parametrize("changes", [{}, {"subsample": 2**25}, {"subsample": 2**25, "sigma": "0"}], ids=str)
def test_an_exploratory_page_says_so_first_and_certifies_nothing(changes: dict[str, Any]) -> None:
    made = drawn(exploratory=True, **changes)
    assert made["kind"] == "exploratory"
    page = shown(made, [Example(point["index"], flat(9)) for point in made["points"]])
    assert page.warnings[0].startswith("Exploratory. Nothing on this page is proved.")
    assert page.text.lstrip().startswith("Exploratory report")
    assert "certificate" not in page.text.lower()
    own = page.text.replace("certified_digest", "")  # a setting's name
    for sentence in made["assumptions"] + made["not_covered"]:
        own = own.replace(sentence, "")
    assert "certif" not in own.lower()
    assert "lower bound" not in own and "Risk of error" not in own and "If you train one model" not in own
    assert "Votes from elsewhere" not in own  # dpclean's own, only read in another way


def test_votes_from_elsewhere_are_said_to_be() -> None:
    votes, labels = draw(200, 20, 3)
    made = certificate(votes, labels, 3, origin="external")
    (warning,) = shown(made).warnings
    assert warning.startswith("Votes from elsewhere. These votes were not made by dpclean.")
    assert shown(drawn()).warnings == []


def test_a_chosen_seed_and_shared_test_images_are_warned_about() -> None:
    page = shown(drawn(seed=1234567, points_in_training=13, attempt=4))
    assert page.warnings[1].startswith("Attempt 4. Earlier jobs were begun")
    assert page.warnings[0].startswith("Seed 1234567. The noise comes from a number that somebody chose.")
    assert page.warnings[2].startswith("13 of the test images also occur among the training images.")


def test_classes_certified_against_their_label_are_counted_and_shown_apart() -> None:
    votes = np.zeros((100, 3), np.int32)
    votes[:50, 2] = 1
    made = certificate(votes, np.array([0, 1, 0]), ["cat", "dog"])
    text = shown(made, [Example(i, flat(9)) for i in range(3)]).text
    assert "of 3 test images, 1 of them for a wrong class" in text
    parts = re.split(
        "Certified, for a wrong class|Abstained(?!.*Abstained)", text[text.index("Examples") :], flags=re.S
    )
    right, wrong, abstained = parts[:3]
    assert "00000.png" in right and "00001.png" in wrong and "class cat" in wrong and "label dog" in wrong
    assert (
        "00002.png" in abstained
        and "radius" not in abstained.split("What this")[0]
        and "votes 50, next class 50" in abstained
    )


def test_without_labels_nothing_is_said_about_right_and_wrong() -> None:
    votes, _ = draw(200, 20, 3)
    made = certificate(votes, None, 3)
    page = shown(made, [Example(0, flat(9))])
    assert "label not known" in page.text
    assert not any("certified accuracy" in row for row in page.cells)
    assert made["accuracy_certificate_absent"] in page.text


def test_both_images_count_where_test_images_are_noised() -> None:
    text = shown(drawn(threat="noised-test")).text
    assert "the training images and this test image, taken together," in text
    assert "every pixel value of the whole training set and this test image, add" in text
    assert "test images were noised and denoised in the same way" in text
    assert "and this test image" not in shown(drawn()).text


def test_when_all_abstain_nothing_is_certified() -> None:
    votes = np.tile(np.array([[0], [1]], np.int32), (50, 7))
    text = shown(certificate(votes, np.zeros(7, np.int64), 2), [Example(3, flat(9))]).text
    assert text.lstrip().startswith("0 of 7 test images certified")
    assert "Nothing. For none of the test images do enough votes agree." in text


def test_one_model_has_a_statement_with_an_alpha_of_its_own() -> None:
    made = drawn(runs=400)
    page, found = shown(made), made["accuracy_certificate"]
    written = {row[0]: row for row in page.cells if len(row) == 3}
    curve = {Decimal(row["distance_over_sigma"]): row for row in found["curve"]}
    for multiple in (Decimal(0), Decimal("0.25"), Decimal(1)):
        assert written[curve[multiple]["distance"]][2] == share(curve[multiple]["accuracy"])
    by_class, to_class = page.cells.index(["class", "test images", *AT]), page.cells.index(["class", "others", *AT])
    for first, entries, key in ((by_class, found["per_class"], "accuracy"), (to_class, found["attack"], "share")):
        for entry, row in zip(entries, page.cells[first + 1 :], strict=False):
            at = {Decimal(row["distance_over_sigma"]): row[key] for row in entry["curve"]}
            shares = [share(at[Decimal(multiple)], up=key == "share") for multiple in CLASS_MULTIPLES]
            assert row == [entry["name"], str(entry["points"]), *shares]
    assert "a single model may do worse" in page.prose


# --- the page itself ---


@pytest.mark.parametrize("changes", [{}, {"exploratory": True}, {"threat": "noised-test"}, {"bound": "anytime"}])
def test_the_page_loads_nothing_and_runs_nothing(changes: dict[str, Any]) -> None:
    made = drawn(**changes)
    html = report_html(made, [Example(0, flat(9)), Example(1, flat(7, channels=1))])
    page = Page(html)
    assert page.addresses == []
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "image", "use"} & set(page.tags)
    assert "url(" not in html and "@import" not in html
    assert re.findall(r"\w+://[^\s\"]+", html) == ["http://www.w3.org/2000/svg"]  # the name of SVG, not an address
    assert "default-src 'none'" in html
    assert html.count("prefers-color-scheme: dark") == 2


AT = [f"at {multiple} sigma" for multiple in CLASS_MULTIPLES]
HOSTILE = "</td><script>alert(1)</script><img src=//evil.example/x>\u202egnp.exe\x00\x1b[31m\n\udcff&amp;"


def test_hostile_names_stay_text() -> None:
    votes, labels = draw(100, 9, 2)
    examples = [Example(i, flat(9)) for i in range(9)]

    def named(name: str) -> Page:
        return shown(
            certificate(
                votes,
                labels,
                [name, f"b{name}"],
                point_names=[f"{i}{name}" for i in range(9)],
                denoiser={"id": name, "digests": {name: "12" * 32}},
                trainer=name,
                recipe={"name": name},
            ),
            examples,
        )

    plain, page = named("plain"), named(HOSTILE)
    assert page.tags == plain.tags
    assert page.addresses == [] and len(page.images) == 9
    assert page.text.count("<script>alert(1)</script>") >= 9 * 3
    assert printable(HOSTILE) in page.text
    assert all(character.isprintable() or character == "\n" for character in page.text)


def test_examples_are_the_pixels_themselves() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 32, 1), np.uint8)
    (image,) = shown(drawn(), [Example(5, pixels)]).images
    assert image.shape == (80, 128, 3)
    assert (image[1::4, 1::4] == pixels).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 900), (900, 1), (600, 800)])
def test_examples_of_any_size_fit(height: int, width: int) -> None:
    (image,) = shown(drawn(), [Example(5, flat(77, height, width))]).images
    assert max(image.shape) <= 256 and (image == 77).all()


def test_one_point_and_no_examples() -> None:
    made = certificate(np.zeros((100, 1), np.int32), np.array([0]), 2)
    page = shown(made)
    assert page.text.lstrip().startswith("1 of 1 test images certified")
    assert "Examples" not in page.text and page.images == []


def test_ten_thousand_points_in_a_thousand_classes_make_a_page_one_can_open() -> None:
    made = drawn(runs=30, points=10_000, classes=1000)
    html = report_html(made, [])
    assert len(html) < 2_000_000
    assert "and 980 more" in html


@pytest.mark.parametrize(
    ("values", "budget", "said"),
    [
        (3072, 24367, "every pixel value changed by 2 levels"),
        (3072, 162, "162 pixel values changed by one"),
        (None, 9, "."),
    ],
)
def test_an_example_of_a_budget_fits_into_one_image(values: int | None, budget: int, said: str) -> None:
    assert said in _example_in(values, budget)
