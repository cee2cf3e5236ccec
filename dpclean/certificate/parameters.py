"""The parameters of a certificate: every field with what it may hold, and what follows from other fields.

They come with a votes file from whoever issued a certificate; in files they are called terms. What can be computed
again is; of the rest the form is checked, and `assumptions.issuers_word` names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import ROUND_UP, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import NO_IMAGES, ClaimSettings
from dpclean.certificate.bounds.search import MOST_RUNS
from dpclean.certificate.partitions import ELECTIONS, RUNOFF, Parts
from dpclean.certificate.threats import DEFAULT_THREAT, EVASION, THREATS, find_threat
from dpclean.certificate.whole_images import MOST, MOST_NUMBERS, WORD
from dpclean.errors import Reason, UsageError
from dpclean.noise.keys import commitment, key_from_seed
from dpclean.noise.table import SIGMA_MAX, table

FORMAT: Final = 3  # of votes and certificate: any change of a byte that the same votes give is another format
MOST_CLASSES = 10**5
MOST_ATTEMPTS = 10**6
FAMILIES = ("point", "all")
SOURCES = ("test", "split", "holdout", "external")  # of test points; the last of votes from elsewhere
ORDER = ["digest of the data fixed", "key drawn"]
ORDER_AT_TEST_TIME = ["model and test images fixed", "key drawn"]
MOST_DRAWS = 10**4
TAU_DIGITS = 20
SHOWN = 80  # characters of a value that a stranger wrote

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# in its shortest form
DecimalText: TypeAlias = Annotated[str, Meta(pattern=r"\A(0|[1-9][0-9]{0,61})(\.[0-9]{0,119}[1-9])?\Z")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
ImageCount: TypeAlias = Annotated[int, Meta(ge=1, lt=WORD)]
Scalar: TypeAlias = str | int | float | bool | None
if TYPE_CHECKING:
    Table: TypeAlias = dict[str, Any]
else:  # of a recipe or an engine, whose fields are not known here
    Table = dict[Text, Scalar | list[Scalar] | dict[str, Scalar]]


class FormError(ValueError):
    """What is wrong with parameters, in one sentence without a full stop."""


# ------------------------------------------------------------------------------------------------------ the fields


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of fields that are all known and, but for the optional ones, all there."""


class RecordedAncestry(_Part, frozen=True, kw_only=True):
    """What is recorded of the images that went into weights; points: of them test points of this certificate."""

    images: Count
    gaps: list[Text]
    points: Count


class RawData(_Part, frozen=True, kw_only=True):
    """The training data: digests, and how many inputs were listed, used and left out for which reason."""

    pixel_digest: Digest
    certified_digest: Digest
    images: Positive
    listed: Positive
    quarantined: dict[Reason, Positive]
    kind: Literal["folder", "shards", "features"]


class DenoiserUsed(_Part, frozen=True, kw_only=True):
    """The denoiser of all runs; digests: by the name of the file."""

    id: Text
    digests: dict[Text, Digest]
    method: Text
    ancestry: RecordedAncestry


class InitialWeights(_Part, frozen=True, kw_only=True):
    """The weights that each run's training begins from."""

    source: Text
    digest: Digest
    ancestry: RecordedAncestry


class ExtractorUsed(_Part, frozen=True, kw_only=True):
    """The frozen network that made rows of features of images of an edge of size; digest: of it, its weights and
    how it is given images.
    """

    id: Text
    digest: Digest
    size: Positive
    ancestry: RecordedAncestry


class ModelUsed(_Part, frozen=True, kw_only=True):
    """The fixed classifier of all runs; digest: SHA-256 of its file of weights."""

    id: Text
    digest: Digest
    ancestry: RecordedAncestry


class LocalSmoothing(_Part, frozen=True, kw_only=True):
    """A prediction is the mean of so many, each with Gaussian noise of size sigma of its own on the denoised image."""

    draws: Annotated[int, Meta(ge=1, le=MOST_DRAWS)]
    sigma: DecimalText


class Decoding(_Part, frozen=True, kw_only=True):
    """How files became pixels; sample is there where only some of the images were taken."""

    alpha_policy: Text
    follow_links: bool
    max_pixels: Positive
    layout: Text | None
    limit: Positive | None
    sample: Positive | UnsetType = UNSET


class Partitions(_Part, frozen=True, kw_only=True):
    """The training set in so many parts, by the name or the content of each image; run j trains on part j - 1."""

    parts: Annotated[int, Meta(ge=2, le=MOST_RUNS)]
    by: Annotated[str, Meta(pattern=r"\A(name|content)\Z")]  # of partitions.WORDS


class CertificateParameters(_Part, frozen=True, kw_only=True):
    """What is fixed before run 1, of votes of any origin; None: not known, or does not apply.

    sigma, alpha and tau are exact decimals: the noise on the [0, 1] scale, the probability of a false claim, the total
    variation distance of all noise of a run from a Gaussian. values: pixel values of everything that is noised.
    """

    format: Literal[3]
    tool: Annotated[str, Meta(pattern=r"\Adpclean [0-9A-Za-z.+_-]{1,100}\Z")]
    runs: Annotated[int, Meta(ge=1, le=MOST_RUNS)]
    selection_runs: Annotated[int, Meta(ge=0, le=MOST_RUNS)]
    points: Positive
    classes: Annotated[list[str], Meta(min_length=2, max_length=MOST_CLASSES)]
    sigma: DecimalText
    alpha: DecimalText
    tau: DecimalText
    bound: str
    family: str
    threat: str
    point_names: Annotated[list[str], Meta(min_length=1)]
    point_source: str
    exploratory: bool
    values: Positive | None = None
    tau1: DecimalText | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    points_digest: Digest | None = None
    raw: RawData | None = None
    key_commitment: Digest | None = None
    order: list[str] | None = None
    denoiser: DenoiserUsed | None = None
    recipe: Table | None = None
    trainer: Text | None = None
    decode: Decoding | None = None
    engine: Table | None = None
    subsample: Annotated[int, Meta(ge=1, lt=WORD)] | UnsetType = UNSET
    with_images: Annotated[list[ImageCount], Meta(min_length=1, max_length=MOST_NUMBERS)] | UnsetType = UNSET
    partitions: Partitions | UnsetType = UNSET


class ForeignParameters(CertificateParameters, frozen=True, kw_only=True, tag_field="origin", tag="external"):
    """Those of votes from elsewhere, of which little is known."""

    point_source: str = SOURCES[-1]
    values: None = None
    tau1: None = None
    seed: None = None
    points_digest: None = None
    raw: None = None
    key_commitment: None = None
    order: None = None
    denoiser: None = None
    recipe: None = None
    trainer: None = None
    decode: None = None
    engine: None = None
    partitions: UnsetType = UNSET


class OwnParameters(CertificateParameters, frozen=True, kw_only=True):
    """Those of any job of dpclean's own. attempt: of jobs begun in its place, this one included."""

    values: Positive
    tau1: DecimalText
    seed: Annotated[int, Meta(ge=0)] | None
    attempt: Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)]
    points_digest: Digest
    inputs_digest: Digest
    key_commitment: Digest
    order: list[str]
    denoiser: DenoiserUsed | None
    recipe: Table | None
    size: Positive | None
    decode: Decoding | None
    engine: Table


class EvasionParameters(OwnParameters, frozen=True, kw_only=True, tag_field="origin", tag="dpclean at test time"):
    """Those of a job whose runs noise test images alone, and ask one model. values: pixel values of one test image.

    recipe: how the model takes images, of an edge of size; nothing is trained by it.
    """

    denoiser: DenoiserUsed
    recipe: Table
    size: Positive
    decode: Decoding
    model: ModelUsed
    local_smoothing: LocalSmoothing | None
    raw: None = None
    trainer: None = None
    subsample: UnsetType = UNSET
    with_images: UnsetType = UNSET
    partitions: UnsetType = UNSET


class JobParameters(OwnParameters, frozen=True, kw_only=True, tag_field="origin", tag="dpclean"):
    """Those of a job whose runs train.

    points_in_training: test points that are training images too. A job trains by recipe, at images of an edge of size,
    from init; or by the command trainer, whose files have the digests trainer_files, in run_timeout seconds. subsample:
    in how many of 2^32 cases an image is in a run, where not all are in every run; with_images: beside how many changed
    images, ascending, a radius is claimed too. dimensions: of rows of features, which stand for images where no image
    was read; there is no noise, nothing to decode and no size then. extractor: what makes such rows of images: without
    noise once for all runs, with the digest rows_digest, with noise for each run anew. partitions: where a run trains
    on one part; then bound is the election, and nothing is left to chance.
    """

    points_in_training: Count
    raw: RawData
    init: InitialWeights | None
    trainer: Text | None
    trainer_files: dict[Text, Digest] | None
    run_timeout: Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)] | None
    keep_models: bool
    dimensions: Positive | UnsetType = UNSET
    extractor: ExtractorUsed | UnsetType = UNSET
    rows_digest: Digest | UnsetType = UNSET


# ---------------------------------------------------------------------------------------------- as JSON, and checked


def as_json(parameters: CertificateParameters) -> dict[str, Any]:
    """The JSON object of parameters, "terms" in files."""
    made: dict[str, Any] = msgspec.to_builtins(parameters)
    return made


def canonical(parameters: CertificateParameters, *, without: Iterable[str] = ()) -> str:
    """The one spelling of parameters as JSON: keys sorted, no spaces, ASCII."""
    kept = {name: value for name, value in as_json(parameters).items() if name not in without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def from_json(terms: Any) -> CertificateParameters:
    """Parameters that are whole and of this form. Raises FormError."""
    try:
        parameters = msgspec.convert(terms, JobParameters | EvasionParameters | ForeignParameters)
        canonical(parameters)
    except msgspec.ValidationError as error:
        raise FormError(_placed(str(error))) from error
    except ValueError as error:
        raise FormError(f"terms hold a number that is none: {error}") from error
    return parameters


def check_consistent(parameters: CertificateParameters) -> None:
    """That what follows from other fields does. Raises FormError.

    What makes them prove nothing, too few runs say, is for `certificate.check_parameters`.
    """
    sources = SOURCES[:-1] if isinstance(parameters, OwnParameters) else SOURCES[-1:]
    if Fraction(parameters.sigma) > Fraction(SIGMA_MAX):
        raise FormError(f"terms.sigma is {parameters.sigma}, pixels go from 0 to 1 and noise up to {SIGMA_MAX:g}")
    rules = BOUNDS if parts_of(parameters) is None else ELECTIONS
    for name, known in (("bound", rules), ("family", FAMILIES), ("threat", THREATS), ("point_source", sources)):
        if (value := getattr(parameters, name)) not in known:
            raise FormError(f"terms.{name} is {_short(value)}, expected one of {', '.join(known)}")
    if len(parameters.point_names) != parameters.points:
        raise FormError(f"terms.point_names are {len(parameters.point_names)} for {parameters.points} points")
    for name, value in _following(parameters).items():
        if getattr(parameters, name) != value:
            raise FormError(
                f"terms.{name} is {_short(getattr(parameters, name))}, from the other terms follows {_short(value)}"
            )
    if isinstance(parameters, JobParameters):
        _check_counts(parameters)
    elif isinstance(parameters, EvasionParameters):
        _check_counts_at_test_time(parameters)


def _placed(message: str) -> str:
    """What msgspec says, with the place in front: terms.raw.images: expected `int`, got `bool`."""
    said, _, place = message.partition(" - at `")
    where = place.rstrip("`").replace("key` in `", "").removeprefix("$")
    if UnsetType.__name__ in said:
        said = "votes from elsewhere have no such term"
    return f"terms{_short_text(where)}: {_short_text(said[:1].lower() + said[1:])}"


def issuers_terms(parameters: CertificateParameters) -> list[str]:
    """The names of those that follow from nothing: their form was checked, what they say is the issuer's word."""
    known = {
        name
        for name, value in as_json(parameters).items()
        if isinstance(parameters, OwnParameters) or value is not None
    }
    return sorted(known - {"format", "points", "runs", *_following(parameters)})


def attempt_of(parameters: CertificateParameters) -> int:
    """Which attempt of its place a job was; 1 for votes from elsewhere, of which it is not known."""
    return parameters.attempt if isinstance(parameters, OwnParameters) else 1


def in_training(parameters: CertificateParameters) -> int:
    """How many test points are known to be training images too."""
    return parameters.points_in_training if isinstance(parameters, JobParameters) else 0


def _following(parameters: CertificateParameters) -> dict[str, Any]:
    """The fields that follow from the others."""
    if not isinstance(parameters, OwnParameters):
        return {
            "classes": [str(number) for number in range(len(parameters.classes))],
            "point_names": [str(number) for number in range(parameters.points)],
        }
    found: dict[str, Any] = {"order": ORDER}
    if isinstance(parameters, EvasionParameters):
        found = {"order": ORDER_AT_TEST_TIME, "threat": EVASION, "point_source": SOURCES[0]}
    if parts := parts_of(parameters):
        found.update(runs=parts.parts, selection_runs=0, alpha="0", family="all", threat=DEFAULT_THREAT)
        found.update(noise_distances(parameters.sigma, parameters.values), exploratory=False)
    elif not parameters.exploratory:  # there they may be chosen
        found.update(noise_distances(parameters.sigma, parameters.values))
        found["selection_runs"] = find_bound(parameters.bound).selection_runs(parameters.runs)
    if parameters.seed is not None:
        if parameters.seed >= 2**64:
            raise FormError(f"terms.seed is {_short(parameters.seed)}, expected less than 2^64")
        found["key_commitment"] = commitment(key_from_seed(parameters.seed, seeded_as(parameters)))
    if isinstance(parameters, EvasionParameters):
        return found
    if parameters.trainer is not None:
        found.update(dict.fromkeys(("recipe", "size", "init"), None), keep_models=False)
    else:
        found.update(trainer_files=None, run_timeout=None)
    return found


def seeded_as(parameters: CertificateParameters) -> str:
    """What a key that comes from a seed is made for."""
    return "certify" if find_threat(parameters.threat).trains else f"certify {EVASION}"


def _check_counts_at_test_time(parameters: EvasionParameters) -> None:
    if parameters.recipe.get("size") not in (None, parameters.size):
        raise FormError(f"terms.size is {parameters.size}, terms.recipe.size is {_short(parameters.recipe['size'])}")
    local = parameters.local_smoothing
    if local is not None and not 0 < Fraction(local.sigma) <= Fraction(SIGMA_MAX):
        raise FormError(f"terms.local_smoothing.sigma is {local.sigma}, expected more than 0 and at most {SIGMA_MAX:g}")
    if (shared := max(part.ancestry.points for part in weights_of(parameters))) > parameters.points:
        raise FormError(f"of {parameters.points} test points {shared} are said to have been trained on")


def _check_counts(parameters: JobParameters) -> None:
    """What counts of the same things have to do with each other."""
    raw, recipe, size = parameters.raw, parameters.recipe, parameters.size
    if not find_threat(parameters.threat).trains:
        raise FormError(f"terms.threat is {parameters.threat}, and the runs train")
    _check_kind(parameters)
    left_out = sum(raw.quarantined.values())
    from_raw = parameters.points if parameters.point_source in ("split", "holdout") else 0
    if (recipe is None) != (parameters.trainer is not None) or (recipe is None and size is not None):
        raise FormError("terms.recipe, terms.size and terms.trainer do not say how models are trained")
    if recipe is not None and recipe.get("size") not in (None, size):
        raise FormError(f"terms.size is {size}, terms.recipe.size is {_short(recipe.get('size'))}")
    if parameters.trainer is not None and None in (parameters.run_timeout, parameters.trainer_files):
        raise FormError("terms.run_timeout and terms.trainer_files belong to terms.trainer")
    if raw.images + left_out + from_raw > raw.listed:
        raise FormError(f"terms.raw.listed is {raw.listed}, fewer than were used and left out")
    if parts := parts_of(parameters):
        if share_of(parameters) is not None or beside_of(parameters):
            raise FormError("terms.partitions excludes terms.subsample and terms.with_images")
        if parts.parts > raw.images:
            raise FormError(f"terms.partitions.parts is {parts.parts}, terms.raw.images is {raw.images}")
    if not len(parameters.classes) <= raw.images <= parameters.values:
        raise FormError(
            f"terms.raw.images is {raw.images}, with {len(parameters.classes)} classes and {parameters.values} values"
        )
    weights = [part.ancestry.points for part in weights_of(parameters)]
    if (shared := max([parameters.points_in_training, *weights])) > parameters.points:
        raise FormError(f"of {parameters.points} test points {shared} are said to have been trained on")


Weights: TypeAlias = DenoiserUsed | InitialWeights | ExtractorUsed | ModelUsed


def weights_of(parameters: OwnParameters) -> list[Weights]:
    """What the runs begin with and were not trained by them."""
    if isinstance(parameters, EvasionParameters):
        return [parameters.denoiser, parameters.model]
    assert isinstance(parameters, JobParameters)
    extractor = None if isinstance(parameters.extractor, UnsetType) else parameters.extractor
    return [part for part in (parameters.denoiser, parameters.init, extractor) if part is not None]


def _check_kind(parameters: JobParameters) -> None:
    """That what only images have is there for images, and for features what only these have."""
    raw, dimensions = parameters.raw, parameters.dimensions
    of_images = {name: getattr(parameters, name) for name in ("denoiser", "decode", "size")}
    if raw.kind == "features":
        of_images |= {"init": parameters.init, "trainer": parameters.trainer}
        if given := sorted(name for name, value in of_images.items() if value is not None):
            raise FormError(f"terms.{given[0]} is there, and the training data are features")
        if (parameters.extractor, parameters.rows_digest) != (UNSET, UNSET):
            raise FormError("terms.extractor or terms.rows_digest is there, and the training data are features")
        if isinstance(dimensions, UnsetType) or parameters.values != raw.images * dimensions:
            raise FormError("terms.dimensions and terms.raw.images do not give terms.values")
        if parameters.sigma != "0":
            raise FormError(f"terms.sigma is {parameters.sigma}, and the training data are features")
        return
    if not isinstance(parameters.extractor, UnsetType):
        if (parameters.init, parameters.trainer) != (None, None):
            raise FormError("terms.extractor is there, and so is an init or a trainer")
        noised = parameters.sigma != "0"  # by each run anew; else rows are made once
        if dimensions is UNSET or (parameters.rows_digest is UNSET) is not noised:
            raise FormError("terms.extractor does not go with terms.sigma, terms.dimensions or terms.rows_digest")
        if not noised:
            if of_images.pop("denoiser") is not None:
                raise FormError("terms.extractor is there without noise, and so is a denoiser")
    elif (dimensions, parameters.rows_digest) != (UNSET, UNSET):
        raise FormError("terms.dimensions or terms.rows_digest is there, and the training data are images")
    if parameters.recipe is None:
        del of_images["size"]
    if missing := sorted(name for name, value in of_images.items() if value is None):
        raise FormError(f"terms.{missing[0]} is null, and the training data are images")


# ----------------------------------------------------------------------------------- fields that follow from others
def settings_of(parameters: CertificateParameters) -> ClaimSettings:
    """What the points of a job are tested against; its decimals are exact.

    The noise has the exact size of the double nearest to sigma; where that is smaller than sigma, radii use it.
    """
    sigma, level = Fraction(parameters.sigma), Fraction(parameters.alpha)
    if parameters.family == "all":
        level /= parameters.points
    runs = parameters.runs - parameters.selection_runs
    share = share_of(parameters)
    images = 0
    if share is not None:  # of votes from elsewhere nobody knows how many there were
        images = MOST if parameters.raw is None else parameters.raw.images
    return ClaimSettings(
        runs=runs,
        level=level,
        sigma=min(sigma, Fraction(float(sigma))),
        tau=Fraction(parameters.tau),
        share=share,
        images=images,
        with_images=beside_of(parameters),
        noises_points=find_threat(parameters.threat).noises_points,
    )


def share_of(parameters: CertificateParameters) -> int | None:
    """In how many of 2^32 cases an image is in a run; None where all are in every run."""
    return None if isinstance(parameters.subsample, UnsetType) else parameters.subsample


def beside_of(parameters: CertificateParameters) -> tuple[int, ...]:
    """Beside how many changed images a radius is claimed too."""
    return () if isinstance(parameters.with_images, UnsetType) else tuple(parameters.with_images)


def keeps_models(parameters: CertificateParameters) -> bool:
    """Whether the model of each run is kept."""
    return isinstance(parameters, JobParameters) and parameters.keep_models


def is_at_test_time(parameters: CertificateParameters) -> bool:
    """Whether its runs ask one fixed model about noised test images."""
    return not find_threat(parameters.threat).trains


def parts_of(parameters: CertificateParameters) -> Partitions | None:
    """The parts of which each run trains on one; None where runs take their images otherwise."""
    return None if isinstance(parameters.partitions, UnsetType) else parameters.partitions


def counts_images(parameters: CertificateParameters) -> bool:
    """Whether its claims are against whole images."""
    return share_of(parameters) is not None or parts_of(parameters) is not None


def kinds_of_images(parameters: CertificateParameters) -> tuple[str, ...]:
    """What may have been done to whole images, as the fields of a point name it; () where these are not counted."""
    parts = parts_of(parameters)
    if parts is not None:
        return tuple(Parts(0, parts.by).as_json())
    return () if share_of(parameters) is None else tuple(NO_IMAGES.as_json())


def has_rankings(parameters: CertificateParameters) -> bool:
    """Whether each vote is a ranking of all classes."""
    return parts_of(parameters) is not None and parameters.bound == RUNOFF


def may_add_runs(parameters: CertificateParameters) -> bool:
    """Whether the claims hold at every number of runs at once."""
    return parts_of(parameters) is None and find_bound(parameters.bound).open_ended


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
    return _short_text(repr(value))


def _short_text(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
