"""What a certificate at test time claims of the images that are attacked, and whether an attack has refuted it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.files import CERTIFICATE_NAME, parameters_in, read
from dpclean.certificate.parameters import EvasionParameters
from dpclean.certificate.verify import folder_of, verify
from dpclean.errors import InputError, InternalError

ROUNDING = "threads", "versions"  # of what runs are done with: of the latter all but dpclean's own
# of taking chance for a violated claim in an audit: that of its votes in all rows, and that of all its certificates
RISK = Fraction(1, 1000)


@dataclass(frozen=True)
class Claims:
    """Of each attacked image the class [N], -1 for none, and the radius on the [0, 1] pixel scale around it.

    alpha: of a false claim, of each by itself or, where they hold together, of any.
    """

    job: str
    terms: EvasionParameters
    classes: NDArray[np.int64]
    radii: Sequence[Fraction]

    def are_about(self, terms: EvasionParameters) -> bool:
        """Whether a job with these terms would ask the same model behind the same purifier."""
        return _about(self.terms) == _about(terms)

    def other_engine(self, here: Mapping[str, Any]) -> str:
        """What the runs were done with that is something else here, in a word or two; empty where nothing is but how
        many threads there are and which libraries, by which results differ by rounding alone.
        """
        there = self.terms.engine
        differing = [name for name in here if name not in ROUNDING and there.get(name) != here[name]]
        versions = there.get("versions")
        if not isinstance(versions, dict) or versions.get("dpclean") != here["versions"]["dpclean"]:
            differing.append("version of dpclean")
        return f"another {differing[0].replace('_', ' ')}" if differing else ""

    def reach(self, squares: Sequence[int]) -> NDArray[np.bool_]:
        """Of which images the claim allows for such sums of squared changes, in grey levels: it is of distances below
        its radius.
        """
        pairs = zip(self.radii, squares, strict=True)
        return np.array([radius**2 * 255**2 > square for radius, square in pairs]) & (self.classes >= 0)

    def refuted(self, votes: NDArray[np.int32], squares: Sequence[int], rows: int) -> NDArray[np.bool_]:
        """The images, changed by that much, of which votes [V,N] say that another class is more probable at them than
        the claimed one, where the claim allows for the change: wrongly of any of them, in one of so many rows of an
        audit, with a chance of RISK at most.
        """
        from scipy.stats import binomtest

        within = np.flatnonzero(self.reach(squares))
        found, classes = np.zeros(len(self.classes), np.bool_), len(self.terms.classes)
        for place in within.tolist():
            cast = votes[:, place]
            counts = np.bincount(cast[cast >= 0], minlength=classes)
            claimed = int(counts[self.classes[place]])
            other = int(np.delete(counts, self.classes[place]).max(initial=0))
            if other > claimed:
                chance = binomtest(other, other + claimed, alternative="greater").pvalue
                found[place] = chance <= float(RISK) / (rows * len(within) * (classes - 1))
        return found

    def check(self, refuted: NDArray[np.bool_], told: str, certificates: int) -> None:
        """Raises InternalError where more claims were refuted than chance explains, RISK apart in all of so many
        certificates of an audit: each is false with a probability of alpha, or any of them.
        """
        from scipy.stats import binom

        count, alpha = int(refuted.sum()), Fraction(self.terms.alpha)
        if not count:
            return
        chance = alpha if self.terms.family == "all" else Fraction(binom.sf(count - 1, len(refuted), float(alpha)))
        if chance <= RISK / certificates:
            raise InternalError(
                f"{told}: attacks changed the vote of {count} images, and their certificate says that changes of this"
                " size cannot",
                "if you made the certificate, please report this: certificates of this kind may be wrong; if you did"
                " not, its votes may be none of honest runs, which nobody can check",
            )


def _about(terms: EvasionParameters) -> tuple[Any, ...]:
    """What decides which class a noised image gets: the model, how it takes images and calls classes, the purifier."""
    model = terms.model.digest, terms.recipe, terms.size, terms.classes
    return (*model, terms.sigma, terms.denoiser.digests, terms.denoiser.method)


def read_claims(path: Path, points_digest: str, names: Sequence[str]) -> Claims:
    """What a certificate, verified, says of these of its test images. Raises InputError for one of other images, or
    of another kind, and what `verify` raises.
    """
    folder = folder_of(path)
    if not (folder / CERTIFICATE_NAME).is_file():
        raise InputError(f"{str(folder)!r} is not there", f"give a folder with {CERTIFICATE_NAME} in it")
    verify(folder)
    certificate = read(folder / CERTIFICATE_NAME)
    terms = parameters_in(certificate)
    if not isinstance(terms, EvasionParameters) or terms.exploratory:
        raise InputError(
            f"{str(folder)!r} is no certificate of a model's answers to changed test images",
            "make one with 'dpclean certify --threat evasion', or leave --certificate out",
        )
    points = {point["name"]: point for point in certificate["points"]}
    # what is said of points, their names and their digest, is the issuer's word
    if terms.points_digest != points_digest or len(points) != terms.points or not points.keys() >= set(names):
        raise InputError(
            f"{str(folder)!r} is about other test images", "give those as --test, or certify these with the same model"
        )
    if terms.local_smoothing is not None:
        raise InputError(
            f"{str(folder)!r} is about a model with local smoothing, which pgd does not look through",
            "certify without --local-smoothing",
        )
    asked = [points[name] for name in names]
    return Claims(
        job=certificate["job"],
        terms=terms,
        classes=np.array([point["class"] for point in asked], np.int64),
        radii=[Fraction(point["certified_radius"]) for point in asked],
    )
