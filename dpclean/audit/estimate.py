"""How long an audit takes, from a few images and steps of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from dpclean.audit.experiment import Experiment, Foe
from dpclean.audit.victims.heads import HEADS

IMAGES, STEPS = 64, 4  # looked at


def seconds_of(experiment: Experiment, foes: Sequence[Foe]) -> float:
    """Of all trials; an attack whose loss stops falling early takes less."""
    raw, test, trials = experiment.raw, experiment.test, experiment.trials
    places = range(min(IMAGES, len(raw)))
    images = [raw.pixels[place] for place in places]
    rows = experiment.rows(images)  # the first one pays for what is set up once
    a_row = _timed(partial(experiment.rows, images)) / len(images)
    whole = a_row * len(test)
    for defence in {defence.label: defence for foe in foes for defence in foe.defences}.values():
        experiment.defended(defence, images, places, 0)
        an_image = a_row + _timed(partial(experiment.defended, defence, images, places, 0)) / len(images)
        whole += an_image * (len(raw) + 2 * sum(len(trial.bases) for trial in trials))
    many = np.resize(rows, (len(raw), rows.shape[1]))
    for head in HEADS.values():
        a_head = _timed(partial(head.fit, many, raw.labels, len(raw.classes)))
        whole += 2 * a_head * len(trials) * sum(len(foe.defences) for foe in foes)
    for foe in foes:
        experiment.crafted(trials[0], foe, lambda: None, 1)
        crafting = _timed(partial(experiment.crafted, trials[0], foe, lambda: None, STEPS))
        whole += crafting / STEPS * foe.surrogate.most_steps * len(trials)
    return whole


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
