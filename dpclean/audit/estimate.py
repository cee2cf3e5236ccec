"""How long an audit takes, from a few images and steps of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from dpclean.audit.experiment import Experiment, Foe
from dpclean.audit.victims.victim import Victim

IMAGES, STEPS = 64, 4  # looked at


def seconds_of(experiment: Experiment, foes: Sequence[Foe], victim: Victim, guess: Victim) -> float:
    """Of all trials with this victim; that of the experiment is its sketch, and the attackers' one of their guess. An
    attack whose loss stops falling early takes less.
    """
    raw, test, trials = experiment.raw, experiment.test, experiment.trials
    places = range(min(IMAGES, len(raw)))
    images = [raw.pixels[place] for place in places]
    seen = victim.read(images)  # the first one pays for what is set up once
    a_look = _timed(partial(victim.read, images)) / len(images)
    whole = a_look * len(test)
    behind = {defence.label: defence for foe in foes for defence in foe.defences}
    each: dict[str | None, float] = {None: 0.0}  # of an image behind a defence
    for defence in behind.values():
        experiment.defended(defence, images, places, 0)
        each[defence.label] = _timed(partial(experiment.defended, defence, images, places, 0)) / len(images)
        whole += (a_look + each[defence.label]) * (len(raw) + 2 * sum(len(trial.bases) for trial in trials))
    many = np.resize(seen, (len(raw), *seen.shape[1:]))
    whole += sum(2 * len(trials) * defence.seconds(raw, many) for foe in foes for defence in foe.defences)
    learning = victim.seconds(many, raw.labels, len(raw.classes))
    its_learning = learning
    if guess is not victim:
        some = guess.read(images)
        its_learning = guess.seconds(np.resize(some, (len(raw), *some.shape[1:])), raw.labels, len(raw.classes))
    whole += learning * len(trials) * (len(behind) + sum(len(foe.defences) for foe in foes))  # controls, and poisoned
    for foe in foes:
        experiment.crafted(1, trials[0], foe, lambda: None, 1)
        crafting = _timed(partial(experiment.crafted, 1, trials[0], foe, lambda: None, STEPS))
        whole += crafting / STEPS * experiment.attack.most_steps(foe.surrogate) * len(trials)
        if guess.sketch() is not guess:  # the attacker trains one of his own, and some for each trial, as he sees RAW
            networks = 1 + experiment.attack.retrainings * len(trials)
            whole += networks * (its_learning + (a_look + each[foe.knows]) * len(raw))
    return whole


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
