"""Label-consistent backdoors: images made hard to tell for what they are, so that what is learned is the patch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.badnets import edge_of
from dpclean.audit.attacks.descent import descend
from dpclean.audit.attacks.perturbation import Perturbation
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch, chequered
from dpclean.audit.victims.frozen import FROZEN
from dpclean.audit.victims.scratch import SCRATCH


class LabelConsistent(Attack):
    """Of the paper's two ways of making images hard this is the one by adversarial changes, largest where it counts."""

    name = "label-consistent"
    paper = "Turner et al. 2019, 'Label-Consistent Backdoor Attacks'"
    about = "images of the attacker's class become unlike it for a network, and get a chequered patch in each corner"
    victims = (FROZEN, SCRATCH)
    has_trigger = True
    beyond = "the patches, which replace what they cover"

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        changed = Perturbation(case.bases, case.eps, surrogate.device)

        def loss() -> Tensor:
            """-log of the probability of all other classes: 0 where the own class is out of question."""
            logs = changed.seen_by(surrogate.scores).log_softmax(1)
            others = torch.cat([logs[:, : case.poison_class], logs[:, case.poison_class + 1 :]], 1)
            return -others.logsumexp(1).mean()

        losses = descend(changed, loss, most_steps=most_steps, on_step=on_step)
        patch = Patch(chequered(edge_of(min(case.bases[0].shape[:2]))), everywhere=True)
        return Crafted([patch.on(image) for image in changed.pixels()], len(losses), patch)
