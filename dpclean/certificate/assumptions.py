"""The sentences of a certificate: what is claimed, what it rests on, what it does not cover. Functions of the terms."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from dpclean.certificate import assumptions_at_test_time as at_test_time
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.parameters import (
    CertificateParameters,
    DenoiserUsed,
    ExtractorUsed,
    InitialWeights,
    JobParameters,
    OwnParameters,
    attempt_of,
    beside_of,
    counts_images,
    in_training,
    is_at_test_time,
    parts_of,
    share_of,
    weights_of,
)
from dpclean.certificate.partitions import ELECTIONS, WORDS
from dpclean.certificate.threats import find_threat
from dpclean.certificate.whole_images import WORD

WARNED_ALPHA = Fraction(1, 20)
TAKEN = "What each run took: that each image was in it with the share in the terms, independently."


def warnings(parameters: CertificateParameters) -> list[str]:
    """What an issuer and a reader should be told aloud, as sentences without a full stop."""
    said = []
    if Fraction(parameters.alpha) > WARNED_ALPHA:
        said.append(
            f"alpha is {parameters.alpha}: it is the probability of a false claim, not the confidence; 0.001 is a"
            " common choice"
        )
    chance = parts_of(parameters) is None
    if chance and parameters.seed is not None:
        said.append("the noise key comes from a seed: trying several seeds voids the certificate")
    if chance and (attempt := attempt_of(parameters)) > 1:
        said.append(
            f"this is attempt {attempt} in this place, each under a key of its own: choosing the best of several voids"
            " the claims"
        )
    if shared := in_training(parameters):
        said.append(f"{shared} test points are training images too: the accuracy flatters")
    if seen := _points_seen(parameters):
        what = "the model" if is_at_test_time(parameters) else "the initial weights"
        said.append(f"{seen} test points went into the denoiser or {what}: the accuracy flatters")
    return said


def assumptions(parameters: CertificateParameters) -> list[str]:
    """What must be true for the claims to hold as stated, in full sentences."""
    if is_at_test_time(parameters):
        return list(at_test_time.assumptions(parameters, _points_seen(parameters)))
    return [*_statement(parameters), *_noise(parameters), *_origin(parameters), *_points(parameters)]


def not_covered(parameters: CertificateParameters) -> list[str]:
    """What nobody may read into the claims, in full sentences."""
    if is_at_test_time(parameters):
        return list(at_test_time.not_covered())
    return [*_changes(parameters), *_limits(parameters)]


def issuers_word(parameters: CertificateParameters) -> list[str]:
    """What no arithmetic shows of the votes and the terms, and a reader takes from the issuer, in full sentences."""
    if is_at_test_time(parameters):
        return list(at_test_time.issuers_word(parameters))
    if (parts := parts_of(parameters)) is not None and isinstance(parameters, JobParameters):
        return [
            "The votes: that each row is the vote of the model of its part, and that none was trained again until it"
            " pleased.",
            f"The parts: that each image was in that one of {parts.parts} parts that follows from {WORDS[parts.by]},"
            " and that each model was trained on the images of its part and on nothing else that depends on the"
            " training data.",
            f"The terms: that the number of parts, the election ({parameters.bound}), the classes and how models are"
            " trained would have been the same with other training images.",
            "The test points: their names and their labels.",
            f"The program: that {parameters.tool} made this.",
            _data_word(parameters),
            "What a run was: that denoiser, recipe or trainer, initial weights, size, decoding, engine and versions are"
            " as the terms say and the same for all runs, and that none of them was made from the training data.",
        ]
    said = [
        "The votes: that each row is the vote of one honest run as described, and that no run was left out, done again"
        " until it pleased, or counted twice. Whoever writes a votes file can put its rows in any order, repeat one"
        " forty times or leave some out, and make the terms fit: the arithmetic still holds.",
        f"When the terms were fixed: that {parameters.runs} runs, the bound {parameters.bound}, alpha"
        f" {parameters.alpha}, the family {parameters.family}, the threat {parameters.threat} and sigma"
        f" {parameters.sigma} were chosen before the first run, and that no other job was done and dropped. An"
        " issuer who published the job's identity before the first run can show this.",
        "The test points: their names, their labels, and that they are what the threat model says.",
        f"The program: that {parameters.tool} made this.",
    ]
    if not isinstance(parameters, JobParameters):
        if Fraction(parameters.sigma) > 0:
            said.append("The noise: that its size is sigma and its distance from a Gaussian is at most tau.")
        if share_of(parameters) is not None:
            said.append(TAKEN)
        return said
    return [
        *said,
        _data_word(parameters),
        "The key: that the one committed to was used, was drawn after the digest of the data was fixed and stayed"
        f" secret, and that this was attempt {parameters.attempt}.",
        *(() if share_of(parameters) is None else (TAKEN,)),
        "What a run was: that denoiser, recipe or trainer, initial weights, size, decoding, engine and versions are as"
        " the terms say and the same for all runs, and that none of them was made from the training data.",
    ]


def _data_word(parameters: JobParameters) -> str:
    return (
        "The training data: that the digests under raw, points_digest and inputs_digest are theirs, how many images"
        f" ({parameters.raw.images}) and values ({parameters.values}) there are, how many inputs were left out, and how"
        f" many test points ({parameters.points_in_training}) are training images too."
    )


def _statement(parameters: CertificateParameters) -> Iterator[str]:
    if (parts := parts_of(parameters)) is not None:
        yield (
            f"The training images are in {parts.parts} parts: which of them an image is in is decided by"
            f" {WORDS[parts.by]} alone. One model was trained on each part, and nothing of another part reached it; one"
            f" whose part was too small votes for nobody. The claims are about the vote of these {parts.parts} models"
            f" themselves, which goes to {ELECTIONS[parameters.bound]}; of equal ones the class that is first in the"
            " list goes first."
        )
        yield (
            "All claims are true together. An image that an attacker put in, changed or took away touches one part, or"
            " two where its change took it from one to another; each touched model may vote for anything, and all"
            " others vote as they do here."
        )
        yield (
            "A model that is trained again on the same images with the same random numbers votes the same, whatever"
            " becomes of the other parts: this is so on one kind of machine with one version of the libraries."
            + " The random numbers come from a key, and the claims hold for every key, also for one that an attacker"
            " knows." * (parameters.trainer is None)
        )
        if Fraction(parameters.sigma):
            yield "The images of each part were noised and denoised. No claim rests on that noise."
        return
    if parameters.exploratory:
        yield (
            "Nothing is proved: bound, alpha or family were chosen, or could have been, after the votes had been seen."
            " The radii are those that the votes would have given had all of it been fixed before run 1."
        )
        return
    alpha, points = parameters.alpha, parameters.points
    if parameters.family == "all":
        yield (
            f"The claims of all {points} points are true together, except with probability {alpha} over the noise key"
            " and the randomness of training."
        )
    else:
        expected = float(Fraction(alpha) * points)
        yield (
            f"Each claim by itself is true except with probability {alpha} over the noise key and the randomness of"
            f" training. All {points} points share the same runs, so errors come together: up to {expected:g} false"
            f" claims are to be expected, and more than j of them have a probability of at most {expected:g} / (j + 1)."
        )
    yield find_bound(parameters.bound).runs_statement(parameters.runs)
    if (share := share_of(parameters)) is not None:
        yield (
            f"Each run takes each training image independently of all others with probability {share} / 2^32 (about"
            f" {share / WORD:.4g}), and trains on what it took, whatever that was; a run that took too little votes for"
            " nobody. The claims are about the class that most of all such runs vote for, not about a model that was"
            " trained on all images."
        )
    if Fraction(alpha) > WARNED_ALPHA:
        yield f"alpha is {alpha}, which is large: it is the probability of a false claim that was accepted beforehand."
    yield (
        "If there is an accuracy certificate, it is a statement of its own, and so is each of its rows by class: each"
        f" spends another {alpha}, which is not part of the above."
    )


def _noise(parameters: CertificateParameters) -> Iterator[str]:
    if parts_of(parameters) is not None:  # for every outcome of what is random
        return
    if not isinstance(parameters, JobParameters) and Fraction(parameters.sigma) == 0:
        return
    if not isinstance(parameters, JobParameters):
        yield (
            f"All noise of a run together is within a total variation distance of tau = {parameters.tau} of Gaussian"
            f" noise with a standard deviation of sigma = {parameters.sigma}, where pixels go from 0 to 1. Both numbers"
            " are the word of whoever took the votes."
        )
        return
    if Fraction(parameters.sigma) == 0:
        yield (
            "Which images a run takes, and the randomness of its training, come from a secret, uniform 256-bit key"
            " through ChaCha20, and the job at hand cannot tell them from true random bits. This is an assumption on"
            " computation."
        )
    else:
        yield from _gaussian(parameters)
    if parameters.seed is not None:
        yield (
            f"The key was derived from the seed {parameters.seed}, which is no secret. Nobody who made the data knew"
            " it, and it was the only seed that was tried: trying several voids the claims."
        )
    else:
        yield (
            "The key was drawn after the digest of the training data had been fixed, stayed secret during the runs, and"
            " was used for this job alone."
        )
    if (attempt := attempt_of(parameters)) > 1:
        yield (
            f"This is attempt {attempt} in this place: {attempt - 1} earlier jobs, each under a key of its own, were"
            " begun and replaced. The claims hold if none of them was dropped for what its votes had shown; if the best"
            f" of all was kept, each is false with probability up to {attempt} times what is stated."
        )


def _gaussian(parameters: CertificateParameters) -> Iterator[str]:
    yield (
        f"All noise of a run together is within a total variation distance of tau = {parameters.tau} of rounded"
        " Gaussian noise, given random bits. The radii have this deducted."
    )
    yield (
        "The random bits come from ChaCha20 under a secret, uniform 256-bit key, and the job at hand cannot tell them"
        " from true random bits. This is an assumption on computation: the advantage of a job that could is no part of"
        " tau and would be added to alpha."
    )


def _origin(parameters: CertificateParameters) -> Iterator[str]:
    if not isinstance(parameters, JobParameters) and share_of(parameters) is not None:
        noised = "which was noised once, independently of all other runs," * (Fraction(parameters.sigma) > 0)
        yield (
            "The votes were taken elsewhere. Which images a run took was drawn for each image by itself, with the share"
            " in the terms, by random numbers that whoever made the images could not know, and was never drawn again."
            f" What it took, {noised or 'as it was,'} its order and constants were all that entered training: neither"
            " the number nor anything else of the other images. A run that could not be trained on what it took votes"
            " for nobody; none was left out or repeated. The vote on one point did not depend on the other points. None"
            " of this was checked."
        )
    elif not isinstance(parameters, JobParameters):
        yield (
            "The votes were taken elsewhere. In each run the whole training set was noised once, independently of all"
            " other runs, and nothing that was not noised entered training; the vote on one point did not depend on"
            " the other points; no run was left out or repeated. None of this was checked."
        )
    yield (
        "That the votes come from honest runs on these data is the word of whoever issued this; 'dpclean verify' checks"
        " the arithmetic from the votes onward, and nothing before it."
    )
    if isinstance(parameters, JobParameters) and parameters.raw.kind == "features":
        yield (
            "What is called an image here is a row of numbers. Whoever made the rows made each from its own image, or"
            " text, or sound, without regard to the others, by an extractor that was fixed beforehand and was not made"
            " from, or chosen by, the training data. None of this could be checked: no image was read."
        )
    denoiser = parameters.denoiser
    if denoiser is not None:
        yield "The denoiser is a constant: it was not made from, or chosen by, " + _not_from(
            parameters, "the denoiser", denoiser
        )
    if isinstance(parameters, JobParameters) and isinstance(parameters.extractor, ExtractorUsed):
        yield "The extractor is a constant: it was not made from, or chosen by, " + _not_from(
            parameters, "the extractor", parameters.extractor
        )
    if parameters.trainer is not None:
        yield (
            f"The training command ({parameters.trainer}) is the same program throughout, with all that it loads: the"
            " files that it names were compared before each run, others were not. It keeps nothing from run to run,"
            " reads nothing but the folders it is given, and predicts each point without regard to the others. What it"
            " draws by itself comes from no key: it draws "
            + (
                "the same for the same images."
                if parts_of(parameters)
                else "it anew in each run, independently of all."
            )
            + " Whether it fails depends on what it is given, and on nothing else." * counts_images(parameters)
        )
    if isinstance(parameters, JobParameters) and parameters.init is not None:
        yield "The initial weights are constants: they were not made from, or chosen by, " + _not_from(
            parameters, "them", parameters.init
        )


def _not_from(parameters: CertificateParameters, what: str, part: DenoiserUsed | InitialWeights | ExtractorUsed) -> str:
    """What weights must not be made of, and what is recorded of what they were made of."""
    data = (
        "the training data"
        if not find_threat(parameters.threat).noises_points
        else "the training data or the test points"
    )
    known = part.ancestry
    because = "; ".join(known.gaps)
    if because and not known.images:
        return f"{data}. None of this could be checked: what went into {what} is not known, because {because}."
    checked = f"None of the {known.images:,} images that are recorded to have gone into {what} is among these"
    if because:
        checked += f", but the record is incomplete, because {because}"
    return f"{data}. {checked}; copies that were re-encoded or cropped cannot be recognised."


def _points(parameters: CertificateParameters) -> Iterator[str]:
    if find_threat(parameters.threat).noises_points:
        yield (
            "Test images are noised and denoised like training images; a radius is the root of the squared distance of"
            " the training sets plus the squared distance of this one test image."
        )
    yield (
        "Certified accuracy and its lower bound say something about other images only as far as the test points are a"
        " random sample of them."
    )
    if parameters.point_source in ("holdout", "split"):
        yield (
            "The test points come from the same source as the training data: if that source cannot be trusted, neither"
            " can these images and labels, and accuracy on them is no evidence."
        )
    if shared := in_training(parameters):
        yield f"{shared} of the test points are training images too: their radii hold, but the accuracy flatters."
    if seen := _points_seen(parameters):
        yield (
            f"{seen} of the test points went into the denoiser or the initial weights: their radii hold, but the"
            " accuracy flatters."
        )


def _points_seen(parameters: CertificateParameters) -> int:
    """How many test points went into weights that the runs begin with, at least."""
    if not isinstance(parameters, OwnParameters):
        return 0
    return max((part.ancestry.points for part in weights_of(parameters)), default=0)


def _changes(parameters: CertificateParameters) -> Iterator[str]:
    parts = parts_of(parameters)
    if not counts_images(parameters):
        yield "Images that are inserted, deleted, reordered or given another label: only changes of pixels are covered."
    else:
        beside = beside_of(parameters)
        together = "; or as many changed as stand beside a radius, and all others moved by less than it" * bool(beside)
        yield (
            "More images than the numbers beside each point, which hold each by itself: so many inserted, or so many"
            " changed, or so many missing, and no other image moved"
            + (f"; or none of these, and all moved by less than the radius together{together}" if parts is None else "")
            + ". Copies and near copies of an image count one by one."
        )
        number = "the share" if parts is None else "the number of parts"
        yield (
            f"What was chosen by looking at the data: {number}, the classes, the size, the recipe and how folders or"
            " shards were read are constants of the claim. Had the images not been there, the same would have to have"
            " been chosen."
        )
        yield "Changes of the test image: where whole training images are counted, it stands still."
    if raw := parameters.raw:
        left_out = sum(raw.quarantined.values())
        counts = "" if not counts_images(parameters) else ", and each such image counts among the missing"
        yield (
            f"Files that were left out: of {raw.listed} inputs {left_out} could not be used. The claims are about"
            f" {raw.images} training images; whoever got a file left out has deleted an image{counts}."
        )
    if parts is not None:
        yield "Small changes of more images than that: no distance is covered, and each is a changed one."
    elif Fraction(parameters.sigma) == 0:
        yield "Small changes of more images than that: without noise no distance is covered, and each is a changed one."
    else:
        yield (
            "Changes larger than the radius, which is a distance over all training images together. The attacks that"
            " have been published are far larger than any radius of this kind."
        )
    if not counts_images(parameters):
        yield (
            "Changes of image sizes, channels, class names or file names, and whatever happens to files before their"
            " pixels are decoded."
        )
    else:
        yield (
            "Names of classes and folders, names that keep other files from being read, and whatever else one file does"
            " to others before its pixels are decoded: a shard that cannot be read takes all its images away."
        )
    if parts is None:
        yield (
            "An attacker who knew the noise key before the data were fixed, or who runs code in the certifying process."
        )
    else:
        yield "An attacker who runs code in the certifying process."


def _limits(parameters: CertificateParameters) -> Iterator[str]:
    if parts_of(parameters) is None:
        yield (
            "Any single trained model, and sanitized data as such: the claims are about the class that runs vote for"
            " most often."
        )
    else:
        yield (
            "Any one of the models, a model that is trained on all images, and sanitized data as such: the claims are"
            " about the vote of all these models."
        )
    yield "Whether a class is right: a claim can hold a wrong answer in place. Labels enter accuracy and nothing else."
    yield "A changed denoiser, recipe or program: they are constants of the claim."
    if not find_threat(parameters.threat).noises_points:
        yield "Changes of the test image: it is fixed, so a trigger that is put into it later is not covered."
    yield "Points that abstain: nothing is said about them."
