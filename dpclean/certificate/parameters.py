"""The form of a job's terms: every field with what it may hold, and what follows from other fields.

Terms come with a votes file from whoever issued a certificate. What can be computed again is; of the rest the form is
checked, and `statements.issuers_word` names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_UP, Decimal, localcontext
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from dpclean.certificate.interval_arithmetic import BOUNDS
from dpclean.errors import Reason, UsageError
from dpclean.noise.keys import commitment, key_from_seed
from dpclean.noise.table import SIGMA_MAX, table

FORMAT = 2  # of votes and certificate: any change of a byte that the same votes give is another format
MOST_RUNS = 10**6
MOST_CLASSES = 10**5
MOST_ATTEMPTS = 10**6
FAMILIES = ("point", "all")
THREATS = ("clean-test", "noised-test")
ORDER = ["digest of the data fixed", "key drawn"]
TAU_DIGITS = 20

Check = Callable[[str, Any], None]


class FormError(ValueError):
    """What is wrong with terms, in one sentence without a full stop."""


# ------------------------------------------------------------------------------------------------ kinds of values


def _that(wanted: str, holds: Callable[[Any], bool]) -> Check:
    def check(where: str, value: Any) -> None:
        if not holds(value):
            shown = repr(value)
            raise FormError(f"{where} is {shown if len(shown) <= 80 else shown[:80] + '...'}, expected {wanted}")

    return check


def _matching(wanted: str, pattern: str) -> Check:
    return _that(wanted, lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None)


def _count(least: int, most: int = 2**63) -> Check:
    return _that(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _one_of(*known: Any) -> Check:
    listed = ", ".join(map(repr, known))
    return _that(f"one of {listed}", lambda value: any(type(value) is type(one) and value == one for one in known))


def _or_null(check: Check) -> Check:
    return lambda where, value: None if value is None else check(where, value)


def _each(check: Check, least: int = 0, most: int = 2**63) -> Check:
    def check_list(where: str, value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise FormError(f"{where} is no list of {least} to {most} entries")
        for place, entry in enumerate(value):
            check(f"{where}[{place}]", entry)

    return check_list


def _table(key: Check, entry: Check) -> Check:
    def check_table(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise FormError(f"{where} is no table")
        for name, content in value.items():
            key(f"a name in {where}", name)
            entry(f"{where}.{name}", content)

    return check_table


def _fields(may: Mapping[str, Check] = MappingProxyType({}), /, **fields: Check) -> Check:
    """A table of these fields; it may have those of `may`, too."""
    known = {**fields, **may}

    def check_fields(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise FormError(f"{where} is no table")
        for name in dict.fromkeys([*fields, *value]):
            if name not in value:
                raise FormError(f"{where}.{name} is missing")
            if name not in known:
                raise FormError(f"{where}.{name} is no field that is known")
            known[name](f"{where}.{name}", value[name])

    return check_fields


_text = _that("a text", lambda value: isinstance(value, str))
_name = _that("a text that is not empty", lambda value: isinstance(value, str) and value != "")
_flag = _that("true or false", lambda value: type(value) is bool)
_digest = _matching("64 hexadecimal digits", "[0-9a-f]{64}")
_decimal = _matching("a decimal in its shortest form", r"(0|[1-9][0-9]{0,61})(\.[0-9]{0,119}[1-9])?")
_scalar = _that(
    "a text, a number, true, false or null",
    lambda value: isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)),
)
_seconds = _that(
    "seconds above 0",
    lambda value: type(value) in (int, float) and math.isfinite(value) and value > 0,
)


def _scalars(where: str, value: Any) -> None:
    """A recipe or an engine: scalars, or lists or tables of scalars."""
    check = _each(_scalar) if isinstance(value, list) else _table(_text, _scalar)
    (check if isinstance(value, list | dict) else _scalar)(where, value)


# ------------------------------------------------------------------------------------------------------ the fields

_ancestry = _fields(images=_count(0), gaps=_each(_name), points=_count(0))

_COMMON: dict[str, Check] = {
    "format": _one_of(FORMAT),
    "tool": _matching("the name of a version", r"dpclean [0-9A-Za-z.+_-]{1,100}"),
    "runs": _count(1, MOST_RUNS),
    "selection_runs": _count(0, MOST_RUNS),
    "points": _count(1),
    "sigma": _decimal,
    "alpha": _decimal,
    "tau": _decimal,
    "bound": _one_of(*BOUNDS),
    "family": _one_of(*FAMILIES),
    "threat": _one_of(*THREATS),
    "point_names": _each(_text, 1),
    "exploratory": _flag,
}
_OWN: dict[str, Check] = {
    **_COMMON,
    "origin": _one_of("dpclean"),
    "classes": _each(_text, 2, MOST_CLASSES),
    "values": _count(1),
    "tau1": _decimal,
    "seed": _or_null(_count(0, 2**64 - 1)),
    "attempt": _count(1, MOST_ATTEMPTS),
    "point_source": _one_of("test", "split", "holdout"),
    "points_digest": _digest,
    "points_in_training": _count(0),
    "raw": _fields(
        pixel_digest=_digest,
        certified_digest=_digest,
        images=_count(1),
        listed=_count(1),
        quarantined=_table(_one_of(*map(str, Reason)), _count(1)),
        kind=_one_of("folder", "shards"),
    ),
    "inputs_digest": _digest,
    "key_commitment": _digest,
    "order": _each(_text),
    "denoiser": _fields(id=_name, digests=_table(_name, _digest), method=_name, ancestry=_ancestry),
    "recipe": _or_null(_table(_name, _scalars)),
    "size": _or_null(_count(1)),
    "init": _or_null(_fields(source=_name, digest=_digest, ancestry=_ancestry)),
    "trainer": _or_null(_name),
    "trainer_files": _or_null(_table(_name, _digest)),
    "run_timeout": _or_null(_seconds),
    "decode": _fields(
        {"sample": _count(1)},
        alpha_policy=_name,
        follow_links=_flag,
        max_pixels=_count(1),
        layout=_or_null(_name),
        limit=_or_null(_count(1)),
    ),
    "engine": _table(_name, _scalars),
    "keep_models": _flag,
}
_ELSEWHERE_UNKNOWN = (
    "values", "tau1", "seed", "points_digest", "raw", "key_commitment", "order", "denoiser", "recipe", "trainer",
    "decode", "engine",
)  # fmt: skip
_ELSEWHERE: dict[str, Check] = {
    **_COMMON,
    "origin": _one_of("external"),
    "classes": _each(_text, 2, MOST_CLASSES),
    "point_source": _one_of("external"),
    **dict.fromkeys(_ELSEWHERE_UNKNOWN, _one_of(None)),
}


def unknown_elsewhere() -> dict[str, None]:
    """The terms of which nothing is known where votes come from elsewhere."""
    return dict.fromkeys(_ELSEWHERE_UNKNOWN)


def check_form(terms: Any) -> None:
    """That terms are whole, of this form, and that what follows from other terms does. Raises FormError.

    What makes terms prove nothing, too few runs say, is for `certificate.check_terms`.
    """
    own = isinstance(terms, dict) and terms.get("origin") == "dpclean"
    _fields(**(_OWN if own else _ELSEWHERE))("terms", terms)
    sigma = Fraction(terms["sigma"])
    if sigma > Fraction(SIGMA_MAX):
        raise FormError(f"terms.sigma is {terms['sigma']}, pixels go from 0 to 1 and noise up to {SIGMA_MAX:g}")
    if len(terms["point_names"]) != terms["points"]:
        raise FormError(f"terms.point_names are {len(terms['point_names'])} for {terms['points']} points")
    for name, value in (_following(terms) if own else _following_elsewhere(terms)).items():
        if terms[name] != value or type(terms[name]) is not type(value):
            raise FormError(f"terms.{name} is {_short(terms[name])}, from the other terms follows {_short(value)}")
    if own:
        _check_counts(terms)


def issuers_terms(terms: Mapping[str, Any]) -> list[str]:
    """The names of terms that follow from nothing: their form was checked, what they say is the issuer's word."""
    own = terms["origin"] == "dpclean"
    found = {"format", "points", "runs", *(_following(terms) if own else _following_elsewhere(terms))}
    return sorted(set(terms) - found - (set() if own else set(_ELSEWHERE_UNKNOWN)))


def _following(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms of dpclean's own votes that follow from the others."""
    found: dict[str, Any] = {"order": ORDER}
    if not terms["exploratory"]:  # there they may be chosen
        found.update(noise_distances(terms["sigma"], terms["values"]))
        found["selection_runs"] = selecting(terms["bound"], terms["runs"])
    if terms["seed"] is not None:
        found["key_commitment"] = commitment(key_from_seed(terms["seed"], "certify"))
    if terms["trainer"] is not None:
        found.update(dict.fromkeys(("recipe", "size", "init"), None), keep_models=False)
    else:
        found.update(trainer_files=None, run_timeout=None)
    return found


def _following_elsewhere(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "classes": [str(number) for number in range(len(terms["classes"]))],
        "point_names": [str(number) for number in range(terms["points"])],
    }


def _check_counts(terms: Mapping[str, Any]) -> None:
    """What counts of the same things have to do with each other."""
    raw, recipe = terms["raw"], terms["recipe"]
    left_out = sum(raw["quarantined"].values())
    from_raw = terms["points"] if terms["point_source"] in ("split", "holdout") else 0
    if (recipe is None) != (terms["trainer"] is not None) or (recipe is None) != (terms["size"] is None):
        raise FormError("terms.recipe, terms.size and terms.trainer do not say how models are trained")
    if recipe is not None and recipe.get("size") not in (None, terms["size"]):
        raise FormError(f"terms.size is {terms['size']}, terms.recipe.size is {recipe.get('size')}")
    if terms["trainer"] is not None and None in (terms["run_timeout"], terms["trainer_files"]):
        raise FormError("terms.run_timeout and terms.trainer_files belong to terms.trainer")
    if raw["images"] + left_out + from_raw > raw["listed"]:
        raise FormError(f"terms.raw.listed is {raw['listed']}, fewer than were used and left out")
    if not len(terms["classes"]) <= raw["images"] <= terms["values"]:
        raise FormError(
            f"terms.raw.images is {raw['images']}, with {len(terms['classes'])} classes and {terms['values']} values"
        )
    shared = [
        terms["points_in_training"],
        *(part["ancestry"]["points"] for part in (terms["denoiser"], terms["init"]) if part),
    ]
    if max(shared) > terms["points"]:
        raise FormError(f"of {terms['points']} test points {max(shared)} are said to have been trained on")


# ----------------------------------------------------------------------------------- terms that follow from others


def selecting(bound: str, runs: int) -> int:
    """How many of the runs select by default."""
    return max(1, runs // 10) if bound == "cohen" else 0


def noise_distances(sigma: str, values: int) -> dict[str, str]:
    """tau1 and tau, rounded up: the distance of one noise value and of a run's from a Gaussian; "0" without noise.

    docs/certificates.md, section "Imperfect noise".
    """
    try:
        tau1 = table(float(sigma)).total_variation if float(sigma) else Fraction(0)
    except UsageError as error:
        raise FormError(f"terms.sigma is {sigma}: {error.message}") from error
    return {"tau1": _rounded_up(tau1), "tau": _rounded_up(values * tau1)}


def _rounded_up(value: Fraction) -> str:
    """A decimal of 20 digits that is at least the value, in its shortest form."""
    with localcontext(prec=TAU_DIGITS, rounding=ROUND_UP):
        return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."
