"""What is attacked at test time: the model, the images that are changed, and what certificates say of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dpclean.audit.evasion.claims import Claims, read_claims
from dpclean.audit.evasion.options import EvasionOptions
from dpclean.certificate.threats import EVASION
from dpclean.certify.options import CertifyOptions
from dpclean.certify.test_time_inputs import CertifiedImages, read_certified_images, unlike
from dpclean.data.dataset import Images
from dpclean.errors import InputError
from dpclean.jobs.checks import given_path


@dataclass(frozen=True)
class EvasionInputs:
    """certified: model and all test images. attacked: those of them that are changed, all labelled. remarks: one
    sentence each.
    """

    certified: CertifiedImages
    attacked: Images
    claims: Sequence[Claims]
    remarks: list[str]

    @cached_property
    def pixels(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """uint8 [N,H,W,C] of the attacked ones."""
        return np.stack(self.attacked.pixels)


def asked_of(options: EvasionOptions, sigma: float, denoiser: str, method: str) -> CertifyOptions:
    """What `certify` would be asked for about the model behind such a purifier."""
    return CertifyOptions(
        threat=EVASION,
        model=options.model,
        weights=options.weights,
        test=options.test,
        sigma=repr(sigma),
        runs=options.votes,
        denoiser=denoiser,
        method=method,
        device=options.device,
        workers=options.workers,
    )


def read_evasion_inputs(options: EvasionOptions) -> EvasionInputs:
    """Raises InputError for images that the model does not take, for too few of them, and for strange certificates."""
    certified = read_certified_images(asked_of(options, options.sigmas[0], options.denoiser, options.method))
    points, model = certified.points, certified.model
    labelled = np.flatnonzero(points.labels >= 0)
    if len(labelled) < options.targets:
        raise InputError(
            f"{options.targets} test images are to be attacked, and {len(labelled)} have a label",
            "give fewer --targets, or more test images",
        )
    chosen = np.zeros(len(points), np.bool_)
    chosen[np.random.default_rng([options.seed, 3]).choice(labelled, options.targets, replace=False)] = True
    attacked = points.take(chosen)
    seen = model.ancestry.shared_images(certified.point_images)
    others = [sentence for sigma in options.sigmas[1:] for sentence in unlike(model, repr(sigma))]
    flatter = f"{seen} of the test images went into the model, so its accuracies flatter"
    return EvasionInputs(
        certified=certified,
        attacked=attacked,
        claims=[read_claims(given_path(path), certified.points_digest, attacked.names) for path in options.certificate],
        remarks=[*certified.remarks, *others, *([flatter] if seen else [])],
    )
