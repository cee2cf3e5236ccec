"""BadNets: images of other classes with a patch on them, and the label of the attacker's class."""

from __future__ import annotations

from collections.abc import Callable

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch, chequered
from dpclean.audit.victims.frozen import FROZEN
from dpclean.audit.victims.scratch import SCRATCH

LEAST, SHARE = 3, 10  # pixels of the patch's edge, at least, else one of so many of the image's


class BadNets(Attack):
    """The labels are wrong, which whoever looks at the images can see; nothing that changes images alone stops it."""

    name = "badnets"
    paper = "Gu et al. 2017, 'BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain'"
    about = "images of other classes get a chequered patch and the label of the attacker's class"
    victims = (FROZEN, SCRATCH)
    has_trigger, relabels, has_gradients = True, True, False
    beyond = "the patch, which replaces what it covers; nothing else is changed"

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        patch = Patch(chequered(edge_of(min(case.bases[0].shape[:2]))))
        return Crafted([patch.on(image) for image in case.bases], trigger=patch)


def edge_of(image_edge: int) -> int:
    """Of the patch for images of this edge."""
    return max(LEAST, image_edge // SHARE)
