"""The certificate as a function of votes and terms: what it counts, publishes, says and refuses."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.certificate import build
from dpclean.certificate.decimals import exact_decimal, shortest
from dpclean.certificate.files import dump, read, tsv
from dpclean.certificate.limits import ceiling, check_parameters, least_runs, unanimous
from dpclean.certificate.parameters import FORMAT, settings_of
from dpclean.certificate.votes import Votes
from dpclean.errors import ConflictError, InputError, UsageError
from tests.certificate.ballots import ballot, counted, parameters

Json = dict[str, Any]


def certificate(votes: Votes) -> Json:
    return build(votes, "00" * 32)


# ------------------------------------------------------------------------------------------------------- points


def test_a_point_says_its_class_counts_bounds_radius_and_budget() -> None:
    (point,) = certificate(counted({1: 95, 0: 3, 2: 2}, labels=[1]))["points"]
    assert (point["index"], point["name"], point["label"], point["class"]) == (0, "000.png", 1, 1)
    assert (point["k_a"], point["k_b"]) == (95, 3)
    assert len(point["pa_lower"]) == len(point["pb_upper"]) == 20
    assert 0 < Decimal(point["pb_upper"]) <= 1 - Decimal(point["pa_lower"])
    radius = Decimal(point["certified_radius"])
    assert len(point["certified_radius"]) == 8 and point["budget"] < (255 * radius) ** 2 <= point["budget"] + 1


@pytest.mark.parametrize("bound", BOUNDS)
def test_ties_and_points_without_votes_abstain_and_claim_nothing(bound: str) -> None:
    made = certificate(counted({0: 50, 1: 50}, {}, {0: 51, 1: 49}, bound=bound))
    for point in made["points"]:
        assert point["class"] == -1 and point["certified_radius"] == "0.000000" and point["budget"] == 0
        assert point["pa_lower"] is None and point["pb_upper"] is None
    assert made["summary"] == {**made["summary"], "points": 3, "certified": 0, "abstained": 3}


def test_cohen_claims_the_class_of_its_selection_or_nothing() -> None:
    table = np.ones((100, 2), np.int32)
    table[:10, 0] = 0  # the selection says 0, the estimation 1: the radius would belong to another class
    first, second = certificate(ballot(table, bound="cohen"))["points"]
    assert (first["class"], first["k_a"], first["k_b"]) == (-1, 0, 90)
    assert (second["class"], second["k_a"], second["k_b"]) == (1, 90, 0)


def test_failed_runs_are_counted_and_never_a_class() -> None:
    whole, failed = (certificate(counted({1: 90}, runs=runs)) for runs in (90, 100))
    assert failed["summary"]["failed_runs"] == 10 and whole["summary"]["failed_runs"] == 0
    assert Decimal(failed["points"][0]["certified_radius"]) < Decimal(whole["points"][0]["certified_radius"])


def test_the_number_of_classes_changes_nothing() -> None:
    # a correction by C, as in Bagging/certify.py of AML_TrainingCertifiedDefense, gives radius away for nothing
    few, many = (counted({0: 90, 1: 5}, classes=[str(c) for c in range(count)]) for count in (10, 1000))
    assert certificate(few)["points"] == certificate(many)["points"]


def test_the_family_all_divides_alpha_by_all_points() -> None:
    alone = certificate(counted({0: 100}, alpha="0.0001"))
    together = certificate(counted(*[{0: 100}] * 10, family="all"))
    assert together["points"][3]["certified_radius"] == alone["points"][0]["certified_radius"]


def test_sigma_is_never_larger_than_the_noise_that_is_drawn() -> None:
    # the double nearest to 0.3 is smaller than 0.3, the one nearest to 0.1 is larger
    larger, smaller = (settings_of(parameters(1000, 1, sigma=sigma)).sigma for sigma in ("0.1", "0.3"))
    assert larger == Fraction("0.1") < Fraction(0.1)
    assert smaller == Fraction(0.3) < Fraction("0.3")


def test_the_same_votes_make_the_same_bytes_whatever_made_them() -> None:
    votes = counted({0: 90, 1: 5}, {1: 70, 2: 20}, labels=[0, 1])
    assert dump(certificate(votes)) == dump(certificate(votes))


# ----------------------------------------------------------------------------------------------------- accuracy


def labelled(**changed: Any) -> Json:
    """Ten points: seven right, one claimed for a wrong class, one abstaining, one without a label."""
    columns = [{0: 100}] * 7 + [{1: 100}, {0: 50, 1: 50}, {2: 100}]
    return certificate(counted(*columns, labels=[0] * 9 + [-1], **changed))


def test_abstentions_and_wrong_classes_stay_in_the_denominator() -> None:
    accuracy = labelled()["accuracy"]
    assert accuracy["labelled"] == 9
    assert accuracy["at"][0]["radius"] == "0.000000" and accuracy["at"][0]["certified"] == 7
    assert accuracy["at"][0]["certified_accuracy"] == "0.777777"  # 7 of 9, down
    assert labelled()["points"][9]["label"] is None and labelled()["summary"]["certified"] == 9


def test_certified_accuracy_falls_with_the_radius_and_ends_at_the_ceiling() -> None:
    made = certificate(counted({0: 100}, {0: 90, 1: 10}, {0: 70, 1: 5}, {0: 60, 1: 2}, labels=[0, 0, 0, 1]))
    at = made["accuracy"]["at"]
    radii = [Decimal(row["radius"]) for row in at]
    assert radii == sorted(radii) and radii[-1] <= Decimal(made["summary"]["ceiling"]) < radii[-1] + radii[1]
    for row in at:
        count = sum(p["class"] == p["label"] and Decimal(p["certified_radius"]) >= Decimal(row["radius"])
                    for p in made["points"])  # fmt: skip
        assert row["certified"] == count
    assert [row["certified"] for row in at] == sorted((row["certified"] for row in at), reverse=True)


def test_errors_of_points_that_share_their_runs_are_not_taken_for_independent() -> None:
    # Markov: of 1000 points at alpha 0.001 more than 40 are false with probability at most 1/40
    columns = [{0: 100}] * 1000
    for family, false_claims, confidence in (("point", 40, "0.950000"), ("all", 0, "0.974000")):
        accuracy = certificate(counted(*columns, labels=[0] * 1000, family=family))["accuracy"]
        assert (accuracy["j"], accuracy["confidence"]) == (false_claims, confidence)
        lower = Fraction(accuracy["at"][0]["lower"])
        at_least = Fraction(1, 40) ** Fraction(1, 1000) if false_claims == 0 else None
        assert at_least is None or abs(float(lower) - float(at_least)) < 2e-6
        assert lower <= 1 - Fraction(false_claims, 1000)


def test_without_labels_there_is_no_accuracy() -> None:
    made = certificate(counted({0: 100}, {1: 100}))
    assert made["accuracy"] is None and made["accuracy_certificate"] is None
    assert "label" in made["accuracy_certificate_absent"]


@pytest.mark.parametrize(
    ("changed", "word"), [({"bound": "anytime"}, "anytime"), ({"threat": "noised-test"}, "noised"),
                          ({"exploratory": True}, "explored")]
)  # fmt: skip
def test_the_accuracy_certificate_is_absent_with_the_reason(changed: Json, word: str) -> None:
    made = labelled(**changed)
    assert made["accuracy_certificate"] is None and word in made["accuracy_certificate_absent"]


def test_the_accuracy_certificate_counts_every_run_and_every_class() -> None:
    votes = counted({0: 90, 1: 10}, {1: 80, 0: 5}, {1: 100}, {2: 100}, labels=[0, 1, 1, -1])
    found = certificate(votes)["accuracy_certificate"]
    assert found["mean"] == "0.900000"  # (90 + 80 + 100) / 300
    assert [(row["class"], row["mean"]) for row in found["per_class"]] == [(0, "0.900000"), (1, "0.900000")]
    # to class 0 went 5 of the 200 votes on points of class 1, to 1 10 of 100, to 2 none of 300
    assert [(row["class"], row["mean"]) for row in found["attack"]] == [
        (0, "0.025000"),
        (1, "0.100000"),
        (2, "0.000000"),
    ]
    for row in [found, *found["per_class"]]:
        curve = [Decimal(at["accuracy"]) for at in row["curve"]]
        assert curve[0] <= Decimal(row["mu_lower"]) < Decimal(row["mean"]) and curve == sorted(curve, reverse=True)
    for row in found["attack"]:
        curve = [Decimal(at["share"]) for at in row["curve"]]
        assert curve[0] >= Decimal(row["mu_upper"]) > Decimal(row["mean"]) and curve == sorted(curve)
    assert found["alpha"] == "0.001" and found["curve"][5]["distance"] == "0.062500"


def test_cohen_counts_its_selection_runs_for_the_accuracy_of_one_model() -> None:
    table = np.zeros((100, 1), np.int32)
    table[:10] = 1
    assert certificate(ballot(table, [0], bound="cohen"))["accuracy_certificate"]["mean"] == "0.900000"


# ----------------------------------------------------------------------------------------------------- sentences


def said(**changed: Any) -> str:
    made = certificate(counted({0: 100}, **changed))
    return "\n".join([*made["assumptions"], *made["not_covered"]])


def test_the_sentences_say_what_each_claim_means() -> None:
    assert "Each claim by itself is true except with probability 0.001" in said()
    assert "are true together, except with probability 0.001" in said(family="all")
    assert "whenever the runs were stopped" in said(bound="anytime")
    assert "were fixed before the first run" in said()
    assert "Nothing is proved" in said(exploratory=True) and "except with probability" not in said(exploratory=True)


def made_of(images: int, *gaps: str, points: int = 0) -> dict[str, Any]:
    return {"id": "x", **of_them(images, *gaps, points=points)}


def of_them(images: int, *gaps: str, points: int = 0) -> dict[str, Any]:
    return {"ancestry": {"images": images, "gaps": list(gaps), "points": points}}


def test_the_sentences_name_what_the_claims_rest_on() -> None:
    assert "ChaCha20" in said() and f"tau = {parameters(100, 1).tau} " in said()
    assert "secret" in said() and "seed" not in said()
    assert "seed 7" in said(seed=7) and "trying several voids" in said(seed=7)
    assert "None of the 15,199 images that are recorded to have gone into the denoiser is among these; copies" in said()
    assert "these, but the record is incomplete, because a; b; copies" in said(denoiser=made_of(5, "a", "b"))
    assert "None of this could be checked: what went into the denoiser is not known, because a." in said(
        denoiser=made_of(0, "a")
    )
    assert "recorded to have gone into them" in said(init=of_them(5))
    assert "7 of the test points went into the denoiser" in said(init=of_them(5, points=7))
    assert "python x.py" in said(trainer="python x.py") and "keeps nothing from run to run" in said(trainer="x")
    assert "comes from no key: it draws it anew in each run" in said(trainer="x") and "no key" not in said()
    assert "is the same program throughout" in said(trainer="x") and "same program" not in said()
    assert "the word of whoever issued this" in said()
    assert "The votes were taken elsewhere" in said(origin="external", raw=None, denoiser=None)
    assert "ChaCha20" not in said(origin="external", raw=None, denoiser=None)
    assert "cannot be trusted" in said(point_source="holdout") and "cannot be trusted" not in said()
    assert "of 103 inputs 3 could not be used" in said()
    assert "squared distance of this one test image" in said(threat="noised-test")
    assert "a trigger that is put into it later" in said() and "a trigger" not in said(threat="noised-test")
    assert "which is large" in said(alpha="0.06") and "which is large" not in said(alpha="0.05")
    assert "4 of the test points are training images too" in said(points_in_training=4)


def test_the_sentences_say_what_is_not_covered() -> None:
    for words in ("inserted, deleted, reordered", "larger than the radius", "Any single trained model"):
        assert words in said()
    for words in ("a wrong answer", "knew the noise key", "abstain"):
        assert words in said()


def test_published_attacks_are_listed_and_not_covered() -> None:
    made = certificate(counted({0: 1000}, runs=1000, sigma="1", bound="union", values=3072 * 500,
                               raw={"images": 500, "listed": 500, "quarantined": {}}))  # fmt: skip
    rows = {row["change"]: (row["distance"], row["covered_by_largest"]) for row in made["attack_sizes"]}
    assert made["summary"]["largest_radius"] == "2.463262"
    assert rows == {
        "1 image of 3,072 values, each value by 1 level": ("0.217", True),
        "1 image of 3,072 values, each value by 8 levels": ("1.739", True),
        "1 image of 3,072 values, each value by 16 levels": ("3.478", False),
        "500 images of 3,072 values, each value by 8 levels": ("38.882", False),
        "500 images of 3,072 values, each value by 16 levels, the attack of the paper": ("77.763", False),
    }


# ---------------------------------------------------------------------------------------------------- the files


def test_the_file_comes_back_and_newer_ones_are_told_apart(tmp_path: Path) -> None:
    made = certificate(counted({0: 90}, {1: 80}, labels=[0, 1]))
    path = tmp_path / "certificate.json"
    path.write_bytes(dump(made))
    assert read(path) == made and "point_names" not in made["terms"]
    for other in (2, 4):
        path.write_text(json.dumps({**made, "format": other}))
        with pytest.raises(ConflictError):
            read(path)
    for text in ("", "[]", "{}", '{"format": 0}', "[" * 10**5):
        path.write_text(text)
        with pytest.raises(InputError):
            read(path)
    with pytest.raises(InputError):
        read(tmp_path / "nowhere")


def test_the_table_has_a_line_a_point_and_names_cannot_break_it() -> None:
    made = certificate(counted({0: 90, 1: 10}, {}, labels=[0, -1], point_names=["a\tb\n\udc80", "ü"]))
    head, first, second, end = tsv(made).split("\n")
    assert head.split("\t") == ["index", "name", "label", "class", "certified_radius", "budget", "k_a", "k_b",
                                "pa_lower", "pb_upper"]  # fmt: skip
    assert first.split("\t")[:4] == ["0", "a\\tb\\n\\udc80", "0", "0"] and end == ""
    assert second.split("\t") == ["1", "ü", "", "-1", "0.000000", "0", "0", "0", "", ""]


# ----------------------------------------------------------------------------------------- ceilings and refusals

CEILINGS = {  # radius / sigma when all n runs agree, alpha = 0.001, rounded to 4 places
    10: (None, None, None, None, None, None),  # `cohen` has 0.0030: no change of a grey level
    20: ("0.5474", "0.4713", "0.5474", "0.5182", "0.4629", None),
    100: ("1.5005", "1.4475", "1.5005", "1.4801", "1.4377", "1.0413"),
    1000: ("2.4633", "2.4254", "2.4633", "2.4487", "2.3960", "2.1447"),
    10000: ("3.1986", "3.1681", "3.1986", "3.1868", "3.1252", "2.9458"),
}


@pytest.mark.parametrize("runs", CEILINGS)
def test_the_ceilings_of_the_documentation(runs: int) -> None:
    alone, shared = Fraction("0.001"), Fraction("0.001") / 10**4
    columns = (
        ("cohen", runs, alone), ("cohen", runs - runs // 10, alone), ("union", runs, alone),
        ("multiclass", runs, alone), ("anytime", runs, alone), ("union", runs, shared),
    )  # fmt: skip
    for (bound, counted_runs, level), known in zip(columns, CEILINGS[runs], strict=True):
        found = unanimous(find_bound(bound), ClaimSettings(counted_runs, level, Fraction(1), Fraction(0)))
        assert f"{Decimal(found):.4f}" == (known or "0.0000")


def test_no_point_is_above_the_ceiling() -> None:
    made = certificate(counted({0: 100}, {0: 99}))
    assert made["points"][0]["certified_radius"] == made["summary"]["ceiling"] == ceiling(parameters(100, 2))
    assert made["summary"]["largest_radius"] == made["summary"]["ceiling"]


def at_level(level: Fraction, sigma: Fraction = Fraction(1), tau: Fraction = Fraction(0)) -> ClaimSettings:
    """What claims at a level are tested against, of any number of runs."""
    return ClaimSettings(0, level, sigma, tau)


@pytest.mark.parametrize(("bound", "least"), [("cohen", 12), ("union", 11), ("anytime", 12), ("multiclass", 16)])
def test_the_least_number_of_runs_that_can_claim_anything(bound: str, least: int) -> None:
    assert least_runs(find_bound(bound), at_level(Fraction("0.001"))) == least
    check_parameters(parameters(least, 1, bound=bound, tau="0"))
    for too_few in (least - 1, 5, 1):
        with pytest.raises(UsageError) as refusal:
            check_parameters(parameters(too_few, 1, bound=bound, tau="0", selection_runs=1 if bound == "cohen" else 0))
        assert f"at least {least} runs" in refusal.value.remedy or too_few == 1  # one run of `cohen` selects nothing


def test_the_family_all_needs_more_runs() -> None:
    assert least_runs(find_bound("union"), at_level(Fraction("0.001") / 10**4)) == 25
    with pytest.raises(UsageError, match="all 10000 points") as refusal:
        check_parameters(parameters(24, 10**4, bound="union", family="all", tau="0"))
    assert "25" in refusal.value.remedy


def test_a_large_tau_can_make_every_number_of_runs_too_few() -> None:
    assert least_runs(find_bound("union"), at_level(Fraction("0.001"), tau=Fraction("0.24"))) is not None
    assert least_runs(find_bound("cohen"), at_level(Fraction(1, 1000), sigma=Fraction(1, 10**9))) is None
    with pytest.raises(UsageError, match="below 0.25"):
        check_parameters(parameters(10**6, 1, tau="0.25"))


REFUSED: list[tuple[Json, str]] = [
    ({"alpha": "0.95"}, "not the confidence"), ({"alpha": "0.99"}, "not the confidence"), ({"alpha": "99"}, "not"),
    ({"alpha": "0"}, "above 0"), ({"alpha": "-0.1"}, "above 0"), ({"alpha": "nan"}, "decimal"),
    ({"alpha": "1/1000"}, "decimal"), ({"alpha": "0,001"}, "decimal"), ({"alpha": "1e-999999999"}, "decimal"),
    ({"sigma": "0"}, "without noise"), ({"sigma": "-1"}, "without noise"), ({"sigma": "inf"}, "decimal"),
    ({"tau": None}, "tau"), ({"tau": "0.25"}, "tau"), ({"tau": "-0.01"}, "tau"), ({"classes": ["cat"]}, "two classes"),
    ({"bound": "magic"}, "bound"), ({"family": "each"}, "family"), ({"threat": "any"}, "threat"),
    ({"runs": 10**6 + 1}, "1,000,000"), ({"runs": 0}, "runs"), ({"points": 0}, "points"),
    ({"bound": "cohen", "selection_runs": 0}, "cohen"), ({"bound": "cohen", "selection_runs": 100}, "cohen"),
    ({"bound": "union", "selection_runs": 10}, "union"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=lambda value: str(value))
def test_terms_that_prove_nothing_are_refused(change: Json, words: str) -> None:
    check_parameters(parameters(100, 1))
    with pytest.raises(UsageError) as refusal:
        check_parameters(structs.replace(parameters(100, 1), **change))
    assert words in refusal.value.message + refusal.value.remedy and refusal.value.exit == 2


def test_a_radius_that_covers_no_grey_level_is_no_certificate() -> None:
    """Grey levels are whole: 1/255 of the scale is the nearest that any other data set can be."""
    settings = ClaimSettings(100, Fraction("0.001"), Fraction("0.003"), Fraction(0))
    assert (made := find_bound("union").claim(settings, 95, 5)) is not None and not made.covers_anything
    made = certificate(counted({0: 100}, {0: 95, 1: 5}, labels=[0, 0], bound="union", sigma="0.003", values=100))
    assert [(point["class"], point["budget"]) for point in made["points"]] == [(0, 1), (-1, 0)]
    assert made["summary"]["certified"] == 1 and made["summary"]["largest_radius"] == "0.004501"
    at = [(Fraction(row["radius"]), row["budget"], row["certified"]) for row in made["accuracy"]["at"]]
    assert at[0] == (0, 0, 1) and all(budget > 0 for _, budget, _ in at[1:]) and len(at) > 1


def test_a_sigma_at_which_nothing_can_be_covered_is_refused() -> None:
    with pytest.raises(UsageError, match="1000 runs cannot certify anything"):
        check_parameters(parameters(1000, 3, sigma="0.001"))


def test_more_classes_than_terms_can_name_are_refused_before_any_run() -> None:
    with pytest.raises(UsageError, match="at most 100000 classes"):
        check_parameters(structs.replace(parameters(1000, 3), classes=list(map(str, range(100_001)))))


def test_points_stand_where_points_are_whatever_a_recipe_names_so() -> None:
    made = certificate(counted({0: 100}, recipe={"name": "x", "size": None, "points": []}))
    assert json.loads(dump(made)) == json.loads(json.dumps(made))


def test_a_decimal_is_the_number_it_spells() -> None:
    assert exact_decimal("alpha", "0.001") == Fraction(1, 1000) != Fraction(0.001)
    assert exact_decimal("alpha", "1e-3") == Fraction(1, 1000)
    assert [shortest("alpha", text) for text in ("1e-3", "0.0010", ".001", "100", "4.")] == ["0.001"] * 3 + ["100", "4"]
    assert [shortest("sigma", text) for text in ("-0", "-0.00", "0e5")] == ["0"] * 3
    assert shortest("tau", f"0.{'1' * 57}0") == f"0.{'1' * 57}"  # no digit of it is lost
    for text in ("0__0.001", "0_1", " 0.1", "٠.١", "0x1", "1/2", "", ".", "nan", "inf", "9" * 100, "1e-99"):
        with pytest.raises(UsageError):
            exact_decimal("alpha", text)


def test_the_bytes_of_a_format_do_not_change() -> None:
    """Whoever verifies compares every byte: with another wording or another field FORMAT must be another, and this."""
    own = counted({0: 100}, {1: 90, 0: 4}, {}, labels=[0, 1, -1], tool="dpclean 0", attempt=2, seed=7)
    elsewhere = counted({0: 100}, bound="anytime", family="all", origin="external", tool="dpclean 0")
    found = [hashlib.sha256(dump(certificate(votes))).hexdigest()[:16] for votes in (own, elsewhere)]
    assert (FORMAT, found) == (3, ["cdf6c21e88d97bbe", "68b976f96c9bd395"])
