"""The same sentences where test images are noised and one fixed model votes on them: nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.parameters import CertificateParameters, EvasionParameters, attempt_of

WARNED_ALPHA = Fraction(1, 20)
NOT_POISON = "This is about changed test images; it says nothing about poisoned training data."


def assumptions(parameters: CertificateParameters, points_seen: int) -> Iterator[str]:
    """What must be true for the claims to hold as stated; points_seen: that went into denoiser or model, at least."""
    yield from _statement(parameters)
    yield from _noise(parameters)
    yield from _origin(parameters)
    yield (
        "A radius is a distance from one test image, whatever becomes of the others: the root of the sum of the squared"
        " changes of its pixel values, which go from 0 to 1. It is measured where the noise is added: on decoded"
        " pixels, before the model brings them to its size."
    )
    yield (
        "Certified accuracy and its lower bound say something about other images only as far as the test points are a"
        " random sample of them."
    )
    if points_seen:
        yield (
            f"{points_seen} of the test points went into the denoiser or the model: their radii hold, but the accuracy"
            " flatters."
        )


def not_covered() -> Iterator[str]:
    """What nobody may read into the claims."""
    yield (
        "Poisoned training data: the model is taken as it is. One that was taught to answer wrongly, by a backdoor say,"
        " does so here too, and a trigger is covered only as far as it is smaller than the radius."
    )
    yield (
        "Changes larger than the radius, small as they may look: an image that is moved, turned, scaled, cropped or"
        " brightened is far away in this distance, and so is one with a patch on it."
    )
    yield "Changes of an image's size or channels, and whatever happens to a file before its pixels are decoded."
    yield (
        "What the model says of an image without noise, or after one noising: the claims are about the class that most"
        " of all runs give it. Whoever classifies images takes the votes of many runs, as 'dpclean predict --smooth'"
        " does."
    )
    yield "Images that come later: each needs votes of its own."
    yield "Whether a class is right: a claim can hold a wrong answer in place. Labels enter accuracy and nothing else."
    yield "Another model, denoiser or program: they are constants of the claim."
    yield (
        "An attacker who knew the noise key before model and test images were fixed, or who runs code in the certifying"
        " process."
    )
    yield "Points that abstain: nothing is said about them."


def issuers_word(parameters: CertificateParameters) -> Iterator[str]:
    """What no arithmetic shows of the votes and the terms."""
    yield (
        "The votes: that each row is the vote of one honest run as described, and that no run was left out, done again"
        " until it pleased, or counted twice. Whoever writes a votes file can put its rows in any order, repeat one"
        " forty times or leave some out, and make the terms fit: the arithmetic still holds."
    )
    yield (
        f"When the terms were fixed: that {parameters.runs} runs, the bound {parameters.bound}, alpha"
        f" {parameters.alpha}, the family {parameters.family}, the threat {parameters.threat} and sigma"
        f" {parameters.sigma} were chosen before the first run, and that no other job was done and dropped. An issuer"
        " who published the job's identity before the first run can show this."
    )
    yield "The test points: their names and their labels."
    yield f"The program: that {parameters.tool} made this."
    if not isinstance(parameters, EvasionParameters):
        yield "The noise: that its size is sigma and its distance from a Gaussian is at most tau."
        yield "The model: that one and the same voted in all runs."
        return
    yield (
        "The test images: that points_digest and inputs_digest are theirs, and that each has"
        f" {parameters.values} values."
    )
    yield (
        "The key: that the one committed to was used, was drawn after model and test images were fixed and stayed"
        f" secret, and that this was attempt {parameters.attempt}."
    )
    yield (
        "What a run was: that model, denoiser, local smoothing, size, decoding, engine and versions are as the terms"
        " say and the same for all runs."
    )


def _statement(parameters: CertificateParameters) -> Iterator[str]:
    if parameters.exploratory:
        yield (
            "Nothing is proved: bound, alpha or family were chosen, or could have been, after the votes had been seen."
            " The radii are those that the votes would have given had all of it been fixed before run 1."
        )
        return
    alpha, points = parameters.alpha, parameters.points
    if parameters.family == "all":
        yield f"The claims of all {points} points are true together, except with probability {alpha} over the noise."
    else:
        expected = float(Fraction(alpha) * points)
        yield (
            f"Each claim by itself is true except with probability {alpha} over the noise. Of {points} points up to"
            f" {expected:g} false claims are to be expected, and more than j of them have a probability of at most"
            f" {expected:g} / (j + 1)."
        )
    yield (
        "A run noises each test image afresh, denoises it and asks one fixed model for its class; nothing is trained."
        " The claims are about the class that most of all such runs give to an image."
    )
    yield find_bound(parameters.bound).runs_statement(parameters.runs)
    if isinstance(parameters, EvasionParameters) and (local := parameters.local_smoothing) is not None:
        yield (
            f"The model's answer is the mean of its answers to {local.draws} copies of the denoised image, each with"
            f" Gaussian noise of size {local.sigma} of its own. No radius rests on that noise."
        )
    if Fraction(alpha) > WARNED_ALPHA:
        yield f"alpha is {alpha}, which is large: it is the probability of a false claim that was accepted beforehand."


def _noise(parameters: CertificateParameters) -> Iterator[str]:
    if not isinstance(parameters, EvasionParameters):
        yield (
            f"The noise of an image in a run is within a total variation distance of tau = {parameters.tau} of Gaussian"
            f" noise with a standard deviation of sigma = {parameters.sigma}, where pixels go from 0 to 1. Both numbers"
            " are the word of whoever took the votes."
        )
        return
    yield (
        f"The noise of an image in a run is within a total variation distance of tau = {parameters.tau} of rounded"
        " Gaussian noise, given random bits. The radii have this deducted."
    )
    yield (
        "The random bits come from ChaCha20 under a secret, uniform 256-bit key, and the job at hand cannot tell them"
        " from true random bits. This is an assumption on computation: the advantage of a job that could is no part of"
        " tau and would be added to alpha."
    )
    if parameters.seed is not None:
        yield (
            f"The key was derived from the seed {parameters.seed}, which is no secret. Nobody who made the model or the"
            " test images knew it, and it was the only seed that was tried: trying several voids the claims."
        )
    else:
        yield (
            "The key was drawn after model and test images had been fixed, stayed secret during the runs, and was used"
            " for this job alone."
        )
    if (attempt := attempt_of(parameters)) > 1:
        yield (
            f"This is attempt {attempt} in this place: {attempt - 1} earlier jobs, each under a key of its own, were"
            " begun and replaced. The claims hold if none of them was dropped for what its votes had shown; if the best"
            f" of all was kept, each is false with probability up to {attempt} times what is stated."
        )


def _origin(parameters: CertificateParameters) -> Iterator[str]:
    if not isinstance(parameters, EvasionParameters):
        yield (
            "The votes were taken elsewhere. In each run each test image was noised once, independently of all other"
            " runs, and one and the same model voted on it, to which nothing of the image came but through the noise;"
            " no run was left out or repeated. None of this was checked."
        )
    yield (
        "That the votes come from honest runs on these images is the word of whoever issued this; 'dpclean verify'"
        " checks the arithmetic from the votes onward, and nothing before it."
    )
    yield (
        "Model and denoiser are constants: whatever they were made from, poisoned data included, they are the same for"
        " an image and for every changed one, and nothing of the noise went into them."
    )
