"""The sentence that a page, `certify` and `verify` begin with: true of the points, rounded towards claiming less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dpclean.certificate.certificate import build
from dpclean.certificate.headline import attack_sizes, headline, holding, members
from dpclean.certificate.verify import verify
from dpclean.certificate_page.page import report_html
from dpclean.cli import run
from tests.certificate.ballots import ballot, counted, hand_over

SHARE = 2**32 // 100
RAW = {"images": 5000, "listed": 5003}
WHOLE: dict[str, Any] = {"subsample": SHARE, "raw": RAW, "values": 3072 * 5000, "bound": "multiclass", "sigma": "0"}
AGREEING = ({0: 1000}, {0: 950, 1: 50}, {0: 800, 1: 200})  # of one class, with less and less agreement


def made(*columns: dict[int, int], labels: list[int] | None = None, **terms: Any) -> dict[str, Any]:
    votes = counted(*columns, runs=1000, **{**WHOLE, **terms})
    if labels is not None:
        votes = ballot(votes.votes, labels, **{**WHOLE, **terms})
    return build(votes, "00" * 32)


def test_the_commonest_attack_comes_first_with_numbers_that_the_points_have() -> None:
    certificate = made(*AGREEING, labels=[0, 0, 0])
    said = headline(certificate)
    assert said is not None
    first = re.match(
        r"If up to ([\d,]+) of the 5,000 training images had been put there by an attacker, then without them"
        r" ([\d.]+) % of the test images would still get the right class by the vote of many such runs, made in the"
        r" same way with the same share, classes and recipe; and so would ([\d.]+) % if any ([\d,]+) had been changed"
        r" or relabelled\. This is proved \(risk 0\.001 for each test image\)\.$",
        said,
    )
    assert first is not None, said
    inserted, kept, kept_changed, changed = (float(number.replace(",", "")) for number in first.groups())
    for kind, images, share in (("images_inserted", inserted, kept), ("images_changed", changed, kept_changed)):
        exactly = sum(point[kind] >= images for point in certificate["points"]) / 3
        assert share <= 100 * exactly < share + 0.1 and share >= 50


def test_wrong_classes_do_not_count_as_right() -> None:
    right, wrong = (made(*AGREEING, labels=labels) for labels in ([0, 0, 0], [0, 1, 0]))
    assert holding(right, "images_changed", 0) == 1 and 3 * holding(wrong, "images_changed", 0) == 2
    assert "33.3 %" in str(headline(wrong)) and "66.6 %" in str(headline(right))


def test_what_is_not_known_is_not_said() -> None:
    assert "would still get the class that they get here" in str(headline(made(*AGREEING)))
    assert "of the labelled test images" in str(headline(made(*AGREEING, labels=[0, -1, 0])))
    together = headline(made(*AGREEING, family="all"))
    assert "(risk 0.001 for all test images together)" in str(together)
    assert headline(made({0: 300, 1: 300})) is None, "nothing is certified"
    assert headline(made(*AGREEING, exploratory=True)) is None
    assert headline(build(counted({0: 100}), "00" * 32)) is None, "no images are counted"
    elsewhere = made(*AGREEING, origin="external", subsample=SHARE, raw=None, values=None)
    assert " of the training images had been put there" in str(headline(elsewhere)) and members(elsewhere) is None


def test_a_large_share_withstands_what_is_put_in_alone() -> None:
    said = str(headline(made({0: 1000}, subsample=2**31)))
    assert said.startswith("If up to 5 of the 5,000") and "changed" not in said


def test_attacks_that_are_published_have_a_row_each() -> None:
    certificate = made(*AGREEING, labels=[0, 0, 0])
    assert [size for size, _ in attack_sizes(certificate)] == [1, 25, 50, 500]
    assert members(certificate) == "50.0 of the 5,000 images on average, with a standard deviation of 7.0"
    page = report_html(certificate, [])
    assert "25 images: 1 % of a data set of 2,500" in page and "1 % of this data set" in page
    assert page.index("If up to ") < page.index("Whoever can put images among"), "the sentence comes first"
    small = made(*AGREEING, raw={"images": 90, "listed": 93}, values=3072 * 90)
    assert [size for size, _ in attack_sizes(small)] == [1, 25]


@pytest.mark.parametrize("sigma", ["0", "0.25"])
def test_a_page_without_noise_speaks_of_none(sigma: str) -> None:
    page = report_html(made(*AGREEING, labels=[0, 0, 0], sigma=sigma), [])
    text = re.sub(r"<svg.*?</svg>|<style.*?</style>|<dl class=.facts.*", "", page, flags=re.S)
    words = page[page.index("What the words mean") :]
    if sigma == "0":
        assert "noise" not in words and "radius" not in words and "grey levels" not in words
        assert "recomputes every class, number of images and bound" in page
        assert "fresh noise of" not in text and "a fresh random share of the images, under a key" in text
    else:
        assert "standard deviation, where pixels" in words and "fresh noise of this strength" in text


def test_radii_beside_changed_images_are_columns_of_one_table() -> None:
    page = report_html(made(*AGREEING[:2], labels=[0, 0], sigma="0.25", with_images=[5, 25]), [])
    assert "no image changed" in page and ">5 changed<" in page and ">25 changed<" in page


def test_verify_says_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes = ballot(counted(*AGREEING, runs=1000).votes, [0, 0, 0], **WHOLE)
    folder = hand_over(tmp_path / "certificate", votes)
    assert verify(folder).headline == headline(build(votes, "00" * 32))
    assert run(["verify", str(folder)]) == 0
    assert "What it says: If up to " in capsys.readouterr().out
