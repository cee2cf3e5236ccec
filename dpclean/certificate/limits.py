"""What a number of runs can show at most, and the parameters under which nothing can be certified."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

from msgspec import UNSET

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import NO_IMAGES, NO_RADIUS, RADIUS_UNIT, Bound, ClaimSettings
from dpclean.certificate.bounds.search import MOST_RUNS, least
from dpclean.certificate.decimals import budget, exact_decimal, text
from dpclean.certificate.elections import MOST_RANKED
from dpclean.certificate.parameters import (
    FAMILIES,
    MOST_CLASSES,
    CertificateParameters,
    Partitions,
    beside_of,
    has_rankings,
    is_at_test_time,
    parts_of,
    settings_of,
    share_of,
)
from dpclean.certificate.partitions import ELECTIONS
from dpclean.certificate.threats import find_threat
from dpclean.certificate.whole_images import WORD, Images, members_of_run
from dpclean.errors import Reason, UsageError
from dpclean.jobs.checks import check_ranges

# why an image is left out where others have a part in it, which an attacker may have put there
LEFT_OUT_FOR_OTHERS = (
    (
        (Reason.NAME_COLLISION,),
        "images were left out because of the names of others, which an attacker chooses",
        "rename them",
    ),
    (
        (Reason.TIMEOUT, Reason.DECODER_DIED),
        "images were left out because reading them took too long or too much memory, or ended the decoder, which what"
        " else the machine had to do may have decided, other images too",
        "give the same command when less is going on, or take those files away",
    ),
    (
        (Reason.BAD_SHARD,),
        "shards were left out with all their rows, which what another shard says of the classes may have decided",
        "mend them, or take those files away",
    ),
)
LEAST_LEVEL = Fraction(1, 10**30)  # of a point: far below what anybody asks, far above where the arithmetic ends


def ceiling(parameters: CertificateParameters) -> str:
    """The radius of a point on which all runs agree, which none exceeds; "0.000000" where even that abstains.

    Where runs take a share of the images it is what no proof reaches quite: that without a share, by sqrt(share).
    """
    if parts_of(parameters) is not None:
        return NO_RADIUS
    bound, settings = find_bound(parameters.bound), settings_of(parameters)
    if settings.moving == 1 or settings.sigma == 0:
        return unanimous(bound, settings)
    plain = bound.claim(replace(settings, share=None, with_images=()), settings.runs, 0)
    squared = ((0 if plain is None else plain.radius) * RADIUS_UNIT + 1) ** 2 / settings.moving
    highest = Fraction(math.isqrt(math.floor(squared)) + 1, RADIUS_UNIT)
    return text(highest, 6) if budget(highest) else NO_RADIUS


@cache
def unanimous(bound: Bound, settings: ClaimSettings) -> str:
    """The same for a bound and what it tests against."""
    made = bound.claim(settings, settings.runs, 0)
    return NO_RADIUS if made is None or not made.covers_anything else text(made.radius, 6)


def most_images(bound: Bound, settings: ClaimSettings) -> Images:
    """The most images of each kind, which no point exceeds: those of one on which all runs agree."""
    made = bound.claim(settings, settings.runs, 0)
    return NO_IMAGES if made is None or made.whole is None else made.whole


def can_claim(bound: Bound, settings: ClaimSettings) -> bool:
    """Whether a point on which all runs agree has a claim."""
    made = bound.claim(settings, settings.runs, 0)
    return made is not None and made.covers_anything


def least_runs(bound: Bound, settings: ClaimSettings) -> int | None:
    """The least number of runs, with those that select, that can claim anything; None above MOST_RUNS."""

    def can(runs: int) -> bool:
        counted = runs - bound.selection_runs(runs)
        return counted > 0 and can_claim(bound, replace(settings, runs=counted))

    return least(can, MOST_RUNS)


def check_parameters(parameters: CertificateParameters) -> None:
    """Refuse terms under which nothing can be claimed, or nothing could be proved. Raises UsageError."""
    if len(parameters.classes) < 2:
        raise UsageError("a vote needs at least two classes", "say how many classes there are")
    if len(parameters.classes) > MOST_CLASSES:
        raise UsageError(
            f"at most {MOST_CLASSES} classes are counted, got {len(parameters.classes)}",
            "labels are numbers of classes, not of images; take fewer classes",
        )
    if parameters.points < 1:
        raise UsageError("there are no test points to vote on", "give some")
    if (partitions := parts_of(parameters)) is not None:
        _check_partitions(parameters, partitions)
        return
    bound, threat = find_bound(parameters.bound), find_threat(parameters.threat)
    if threat.name not in bound.threats:
        raise UsageError(
            f"{bound.name} makes no claims under {threat.name}", f"give one of: {', '.join(bound.threats)}"
        )
    alpha, sigma = level_of(parameters.family, parameters.alpha), exact_decimal("sigma", parameters.sigma)
    if alpha < LEAST_LEVEL * (parameters.points if parameters.family == "all" else 1):
        raise UsageError(f"alpha {parameters.alpha} is too small to compute with", "0.001 is a common choice")
    if beside := beside_of(parameters):
        _check_with_images(parameters, beside)
    if is_at_test_time(parameters):
        _check_at_test_time(parameters)
    if share_of(parameters) is not None:
        _check_each_alone(parameters, "--subsample")
    elif sigma <= 0:
        raise UsageError(
            f"without noise nothing can be certified, got sigma {parameters.sigma}",
            "give the sigma above 0, or --subsample or --partitions for whole images",
        )
    _check_tau(parameters.tau)
    _check_runs(parameters, bound)


def _check_at_test_time(parameters: CertificateParameters) -> None:
    if share_of(parameters) is not None:
        raise UsageError(
            f"{parameters.threat} is about the test image, and its runs take no share of any training images",
            "leave the share out, or name another threat",
        )
    if Fraction(parameters.sigma) == 0:
        raise UsageError(
            f"{parameters.threat} covers changes of the test image by the noise on it, and sigma is 0",
            "give a sigma above 0",
        )


def _check_partitions(parameters: CertificateParameters, partitions: Partitions) -> None:
    if parameters.bound not in ELECTIONS:
        raise UsageError(f"election {parameters.bound!r} is not known", f"give one of: {', '.join(ELECTIONS)}")
    if parameters.raw is not None and partitions.parts > parameters.raw.images:
        raise UsageError(
            f"{partitions.parts} partitions of {parameters.raw.images} images: most would have no image to train on",
            "give a smaller --partitions",
        )
    if has_rankings(parameters) and len(parameters.classes) > MOST_RANKED:
        raise UsageError(
            f"a ranking has at most {MOST_RANKED} classes, got {len(parameters.classes)}", "give --election plurality"
        )
    _check_each_alone(parameters, "--partitions")


def _check_each_alone(parameters: CertificateParameters, option: str) -> None:
    """Refuse what makes one image decide about others, or about the points: claims on whole images count each alone."""
    decode, raw = parameters.decode, parameters.raw
    if parameters.point_source == "holdout":
        raise UsageError(
            "which images are held out depends on all of them, so one that an attacker adds moves the test points too",
            "give --test, or data with a test split",
        )
    if decode is not None and (decode.limit is not None or decode.sample is not UNSET):
        raise UsageError(
            "which images a --limit or a --sample takes depends on all of them, so one that an attacker adds drives"
            " another one out",
            "leave it out; to train on less, choose another number for " + option,
        )
    for reasons, said, remedy in LEFT_OUT_FOR_OTHERS:
        if raw is not None and (count := sum(raw.quarantined.get(reason, 0) for reason in reasons)):
            raise UsageError(f"{count} {said}", remedy)
    if find_threat(parameters.threat).noises_points and Fraction(parameters.sigma) == 0:
        raise UsageError(
            f"{parameters.threat} covers small changes of the test image by the noise on it, and sigma is 0",
            "give a sigma above 0, or leave --threat out",
        )


def level_of(family: str, alpha: str) -> Fraction:
    """alpha, of a family that is known. Raises UsageError."""
    level = exact_decimal("alpha", alpha)
    if family not in FAMILIES:
        raise UsageError(f"family {family!r} is not known", f"give one of: {', '.join(FAMILIES)}")
    if not 0 < level <= Fraction(1, 2):
        raise UsageError(
            f"alpha is the probability of a false claim, above 0 and at most 0.5, got {alpha}",
            "it is not the confidence, which is 1 - alpha; 0.001 is a common choice",
        )
    return level


def _check_with_images(parameters: CertificateParameters, beside: tuple[int, ...]) -> None:
    if share_of(parameters) is None or Fraction(parameters.sigma) == 0:
        raise UsageError(
            "a radius beside changed images needs runs that take a share of the images, and noise on these",
            "give --subsample and a sigma above 0, or leave --with-images out",
        )
    raw = parameters.raw
    if list(beside) != sorted(set(beside)) or (raw is not None and beside[-1] > raw.images):
        raise UsageError(
            f"--with-images are numbers of the {raw.images if raw else 0} images, ascending, got"
            f" {', '.join(map(str, beside))}",
            "1,5,10 is a common choice",
        )


def _check_tau(tau: str | None) -> None:
    if tau is None or not 0 <= exact_decimal("tau", tau) < Fraction(1, 4):
        raise UsageError(
            f"tau must be known, from 0 and below 0.25, got {tau}",
            "it is the total variation distance of all noise of a run to a Gaussian; larger ones prove nothing",
        )


def _check_runs(parameters: CertificateParameters, bound: Bound) -> None:
    runs, selection = parameters.runs, parameters.selection_runs
    check_ranges(runs=runs)
    bound.check_selection(runs, selection)
    settings = settings_of(parameters)
    if can_claim(bound, settings):
        return
    fewest = least_runs(bound, settings)
    level = f"alpha {parameters.alpha}" + (f" for all {parameters.points} points" if parameters.family == "all" else "")
    raise UsageError(
        f"{runs} runs cannot certify anything with {bound.name} at {level}, even if all agree",
        f"give at least {fewest} runs"
        if fewest
        else "no number of runs can: sigma is too small to cover any change of a grey level, or tau too large"
        if share_of(parameters) is None
        else "no number of runs can: so large a share lets one image into nearly every run",
    )


def check_members(parameters: CertificateParameters, fewest: int) -> None:
    """Refuse so small a share that too few runs have the fewest images that they train on. Raises UsageError.

    By how many runs have them on average: what there is to be refused is a waste of time, not a false claim.
    """
    share, raw = share_of(parameters), parameters.raw
    if share is None or raw is None:
        return
    bound, settings = find_bound(parameters.bound), settings_of(parameters)

    def can(word: int) -> bool:
        voting = math.ceil(settings.runs * _trained(word, raw.images, fewest))
        made = bound.claim(replace(settings, share=word, with_images=()), voting, 0)
        return made is not None and made.covers_anything

    if can(share):
        return
    enough = least(lambda word: _trained(word, raw.images, fewest) >= 1 - 1 / settings.runs or can(word), WORD - 1)
    members, _ = members_of_run(share, raw.images)
    raise UsageError(
        f"a run takes {members:.2g} of the {raw.images} images on average, and with fewer than {fewest} it votes for"
        " nobody: even if all others agree, nothing can be certified",
        "give more images"
        if enough is None or not can(enough)
        else f"give a --subsample of at least {-(-enough * 10**6 // WORD) / 10**6:g}, which is"
        f" {members_of_run(enough, raw.images)[0]:.2g} images a run",
    )


def _trained(share: int, images: int, fewest: int) -> float:
    """How likely a run has so many images, in floats: 1 or 2 are the fewest."""
    q = share / WORD
    none, one = (1 - q) ** images, images * q * (1 - q) ** (images - 1)
    return 1 - none - (one if fewest > 1 else 0.0)
