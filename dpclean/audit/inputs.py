"""What an audit works on: RAW, the test images, the victim and the trials, each read once and checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack
from dpclean.audit.attacks.guided_diffusion import GuidedDiffusion
from dpclean.audit.brought import read_brought
from dpclean.audit.generator import find_generator
from dpclean.audit.options import AuditOptions
from dpclean.audit.trials import Trial, draw_trials, draw_trigger_trials, find_trials, read_setups
from dpclean.audit.victims.commanded import OPTION, Commanded
from dpclean.audit.victims.fine_tuned import FineTuned
from dpclean.audit.victims.frozen import FROZEN, Frozen
from dpclean.audit.victims.scratch import Scratch, common_size
from dpclean.audit.victims.victim import Victim
from dpclean.certify.trainer_command import check_class_names
from dpclean.classifier_training.inputs import check_classes
from dpclean.data import manifest as manifests
from dpclean.data.dataset import (
    Images,
    divide,
    names_in,
    of_other_shapes,
    pixel_digest,
    pixel_hashes,
    read_images,
    remarks,
    unlabelled,
)
from dpclean.errors import InputError, shown_names
from dpclean.jobs.checks import given_path
from dpclean.train.extractor import Extractor, find_extractor
from dpclean.train.recipes import find_recipe

HOLDOUT = 0.1  # of RAW, where nothing else gives test images


@dataclass(frozen=True)
class AuditInputs:
    """raw: with labels only. test: labels are places in the classes of raw. eligible: which of them victims may be
    asked about. guess: the victim as the attacker takes it to be, the same one unless he has another network. attack,
    eps: what is tried, and by how many grey levels at most. poisons_digest: of those that were brought. remarks: one
    sentence each.
    """

    raw: Images
    test: Images
    eligible: NDArray[np.bool_]
    raw_digest: str
    test_digest: str
    victim: Victim
    guess: Victim
    attack: Attack
    eps: int
    trials: list[Trial]
    poisons_digest: str | None
    remarks: list[str]

    @property
    def trials_digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self.trials)).hexdigest()


def read_inputs(raw: Path, options: AuditOptions, device: torch.device) -> AuditInputs:
    """Raises InputError for data, an extractor or targets that an audit would mean nothing with."""
    manifest = manifests.read(raw)
    if manifest is not None and manifest.noise.sigma > 0:
        raise InputError(
            f"{str(raw)!r} is sanitized already, at sigma {manifest.noise.sigma:g}", "give the raw images instead"
        )
    extractor = surrogate = None
    if options.begins_with_network:
        extractor = _extractor(options.extractor, options.weights, device)
    if options.attacker_begins_with_network:
        surrogate = _extractor(options.surrogate, options.surrogate_weights, device)
    whole = read_images(raw, workers=options.workers)
    train, test, source = divide(
        whole, test=options.test, share=options.holdout, default_share=HOLDOUT, workers=options.workers
    )
    without_class = unlabelled(train)
    train = train.take(train.labels >= 0)
    check_classes(train)
    if options.trainer is None:
        victim = _victim(options.victim, options.victim, extractor, train, device)
    else:
        check_class_names(train.classes, OPTION, folders=True)
        victim = Commanded(options.trainer, train.classes)
    guess = victim
    if options.surrogate is not None:
        guess = _victim(options.victim, options.surrogate, surrogate, train, device)
    hashes = pixel_hashes(train)
    if shared := names_in(train, hashes, victim.ancestry):
        raise InputError(
            f"{len(shared)} of the images of RAW went into the extractor {options.extractor!r}, which poisons would"
            f" have changed ({shown_names(shared)})",
            "give one that never saw them, or leave the images out",
        )
    if test is None or not len(test):
        raise InputError("there are no test images to be targets", "give some with --test")
    known, test_hashes = set(hashes), pixel_hashes(test)
    in_raw = np.array([one in known for one in test_hashes])
    eligible = ~in_raw & (test.labels >= 0)
    brought, attack, eps = None, options.found_attack, options.eps
    if options.poisons_from is None:
        trials = _trials(train, test, eligible, options)
        if isinstance(attack, GuidedDiffusion) and options.generator is not None:
            attack = attack.with_generator(find_generator(options.generator, train, device))
    else:
        folder = given_path(options.poisons_from)
        brought = read_brought(folder, train, test, eligible, most=options.targets, workers=options.workers)
        attack, trials, eps = brought.attack, brought.trials, brought.eps
    mixed = "" if brought is None or len(brought.known) < 2 else ", ".join(brought.known)
    gaps = victim.ancestry.because()
    aimed = [trial.target for trial in trials if trial.target is not None]
    again = len(aimed) - len(set(aimed))
    said = [
        (gaps, f"that the extractor never saw RAW is an assumption: {gaps}"),
        (guess is not victim, f"the attacker does not have the victim's network, he crafts with {guess.about}"),
        (again, f"trials on a target that another trial has too, so the intervals are too narrow: {again}"),
        (mixed, f"poisons of several attackers, and each row counts all of them: those who know {mixed}"),
        (in_raw.sum(), f"test images that are in RAW, none of them a target: {in_raw.sum()}"),
        (source == "holdout", "the test images are held out from RAW, so whoever made RAW chose them"),
    ]
    return AuditInputs(
        raw=train,
        test=test,
        eligible=eligible,
        raw_digest=pixel_digest(train, hashes),
        test_digest=pixel_digest(test, test_hashes),
        victim=victim,
        guess=guess,
        attack=attack,
        eps=eps,
        trials=trials,
        poisons_digest=None if brought is None else brought.digest,
        remarks=remarks(whole, test, source) + without_class + [sentence for applies, sentence in said if applies],
    )


def _extractor(source: str | None, weights: Path | None, device: torch.device) -> Extractor | None:
    """The network of that name, where there is one."""
    if source is None:
        return None
    return find_extractor(str(source), None if weights is None else given_path(weights), device=device)


def _victim(kind: str, name: str, extractor: Extractor | None, train: Images, device: torch.device) -> Victim:
    """name: of the recipe, where it has no extractor."""
    if extractor is None:
        recipe = find_recipe(name)
        return Scratch(recipe, len(train.classes), common_size(train.pixels, recipe), device)
    return Frozen(extractor) if kind == FROZEN else FineTuned(extractor, len(train.classes), device)


def _trials(train: Images, test: Images, eligible: NDArray[np.bool_], options: AuditOptions) -> list[Trial]:
    attack, count = options.found_attack, options.targets
    if options.setups is not None:
        setups = read_setups(given_path(options.setups))
        if len(setups) < count:
            raise InputError(f"{count} targets are wanted, and there are {len(setups)} setups", "give fewer --targets")
        called = {f"setup {number}": setup for number, setup in enumerate(setups[:count], 1)}
        return find_trials(called, train, test, eligible, "correct the setups")
    shapes = sorted({image.shape for image in [*train.pixels, *test.pixels]})
    if attack.one_shape and len(shapes) > 1:
        named = " and ".join(" x ".join(map(str, shape)) for shape in shapes[:2])
        raise InputError(
            f"{attack.name} makes one pattern for all images, and there are images of {named}; others than most are"
            f" {shown_names(of_other_shapes(train, test))}",
            "leave these out, or bring all images to one size and to colour, or give another attack",
        )
    if not attack.has_trigger:
        return draw_trials(train, test, eligible, count=count, poisons=options.poisons, seed=options.seed)
    return draw_trigger_trials(
        train,
        test,
        eligible,
        relabels=attack.relabels,
        one_source=attack.one_source,
        count=count,
        poisons=options.poisons,
        seed=options.seed,
    )
