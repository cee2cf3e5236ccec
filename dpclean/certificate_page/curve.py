"""The curve of a certificate: how much of the test set is certified at each radius.

Nothing is drawn above what was proved: the curve steps down at the published radii themselves, and between two radii
the lower confidence bound is drawn at the height of the larger one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from dpclean.certificate.decimals import budget
from dpclean.certificate.files import parameters_in
from dpclean.certificate.headline import attack_sizes
from dpclean.certificate.parameters import counts_images, is_at_test_time, kinds_of_images
from dpclean.report.plot import Line, Plot

NOTES = (
    "radius: distance of two training sets, pixels from 0 to 1",
    "budget: the same as squared changes of grey levels, summed",
)
NOTES_AT_TEST_TIME = ("radius: distance from the test image, pixels from 0 to 1", NOTES[1])


def main_curve(certificate: Mapping[str, Any]) -> Plot:
    """Against whole images where these are counted, else against the radius."""
    return images_curve(certificate) if counts_images(parameters_in(certificate)) else curve(certificate)


def curve(certificate: Mapping[str, Any]) -> Plot:
    """The drawing, with the ceiling that no radius can pass."""
    summary, terms = certificate["summary"], certificate["terms"]
    ceiling = float(summary["ceiling"])
    ticks = _ticks(ceiling or float(terms["sigma"]))
    lines = [Line("curve", _subject(certificate), steps(certificate))]
    if _has_lower(certificate):
        lines.append(Line("lower", f"lower bound, {_level(certificate)}", lower_steps(certificate)))
    return Plot(
        title=f"{_subject(certificate)} against radius",
        lines=lines,
        reach=max(ceiling * 1.03, float(ticks[-1])),
        rows=("radius", "budget"),
        ticks=[(float(tick), (f"{float(tick):g}", f"{budget(tick):,}")) for tick in ticks],
        notes=NOTES_AT_TEST_TIME if is_at_test_time(parameters_in(certificate)) else NOTES,
        limit=(ceiling, f"ceiling {summary['ceiling']}: the most {terms['runs']:,} runs can show"),
        message=None if summary["certified"] else "every test point abstains",
    )


FURTHER = 1.5  # as far beyond the last point an attack is still marked

IMAGES = {  # role of the line, what was done
    "images_inserted": ("curve", "put in"),
    "images_changed": ("loss", "changed"),
    "images_missing": ("third", "taken away"),
    "images_changed_in_place": ("third", "changed in place"),
}


def images_curve(certificate: Mapping[str, Any]) -> Plot:
    """The share that holds against so many images, one line for each thing that may have been done to them; one line
    for those that hold alike. Of the first of these things the lower bound too, which a note names: the legend is full.
    """
    labelled = [p for p in certificate["points"] if p["label"] is not None]
    points = labelled or certificate["points"]
    held = [p for p in points if p["class"] >= 0 and p["class"] == (p["label"] if labelled else p["class"])]
    alike: dict[tuple[int, ...], list[str]] = {}
    kinds_here = kinds_of_images(parameters_in(certificate))
    for kind in kinds_here:
        alike.setdefault(tuple(sorted(p[kind] for p in held)), []).append(kind)
    in_place = any("images_changed_in_place" in kinds for kinds in alike.values())
    reach = max((max(numbers, default=0) for numbers in alike), default=0) or 1
    marks = [(float(size), f"{size:,}") for size, _ in attack_sizes(certificate) if 1 < size <= FURTHER * reach]
    last = "grey lines: as many as in published attacks" if marks else "by whoever made the training data"
    reach = max(reach, *(int(x) for x, _ in marks), 1)
    lines = [
        Line(
            IMAGES[kinds[0]][0],
            _together([IMAGES[kind][1] for kind in kinds]),
            _steps([Decimal(number) for number in numbers], len(points)),
        )
        for numbers, kinds in alike.items()
    ]
    notes = [
        "images: so many put in, or changed at will, or taken away" + "," * (not marks),
        last + "; in place: changed, the name kept" * in_place,
    ]
    if _has_lower(certificate):
        first = kinds_here[0]
        lines.append(Line("lower", "", _lower(certificate["accuracy_by_images"][first], "images")))
        notes.append(f"long dashes: lower bound for images {IMAGES[first][1]}, {_level(certificate)}")
    return Plot(
        title=f"{_title(certificate)} against whole images",
        lines=lines,
        reach=reach * 1.03,
        rows=("images",),
        ticks=[(float(tick), (f"{float(tick):g}",)) for tick in _ticks(reach) if tick.denominator == 1],
        marks=marks,
        notes=notes,
        message=None if held else "every test point abstains",
    )


def _together(labels: Sequence[str]) -> str:
    """Labels of one line, which the legend has little room for."""
    return ", ".join([*labels[:1], *(label.removeprefix("changed ") for label in labels[1:])])


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
    return _steps(*radii(certificate))


def _steps(found: Sequence[Decimal], total: int) -> list[tuple[float, float]]:
    corners = [(0.0, len(found) / total)]
    for radius in sorted(set(found)):
        corners.append((float(radius), corners[-1][1]))
        corners.append((float(radius), (len(found) - bisect_right(found, radius)) / total))
    return corners


def lower_steps(certificate: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners (radius, bound) of the lower bound: between two radii of the table the bound at the larger one."""
    return _lower(certificate["accuracy"]["at"], "radius")


def _lower(rows: Sequence[Mapping[str, Any]], distance: str) -> list[tuple[float, float]]:
    at = [(float(row[distance]), float(row["lower"])) for row in rows]
    corners = at[:1]
    for further, lower in at[1:]:
        corners += [(corners[-1][0], lower), (further, lower)]
    return corners


def _has_lower(certificate: Mapping[str, Any]) -> bool:
    """Whether there is a lower bound: labels, and nothing chosen afterwards, of which one would bound nothing."""
    return certificate["accuracy"] is not None and certificate["kind"] != "exploratory"


def _level(certificate: Mapping[str, Any]) -> str:
    return f"{_percent(certificate['accuracy']['confidence'])} confidence"


def _title(certificate: Mapping[str, Any]) -> str:
    """Of what holds against whole images."""
    if certificate["kind"] == "exploratory":
        return "share of test points that would hold (not proved)"
    return _subject(certificate)


def _subject(certificate: Mapping[str, Any]) -> str:
    exploratory = certificate["kind"] == "exploratory"
    if certificate["accuracy"] is None:
        return "share of test points with a radius (not proved)" if exploratory else "share of test points certified"
    return "share right with a radius (not proved)" if exploratory else "certified accuracy"


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
