"""A victim that begins with the weights of a given network and lets all of them learn on, with a new head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.victims.scratch import Scratch
from dpclean.audit.victims.victim import Check, Classes, Seen
from dpclean.train.extractor import Extractor
from dpclean.train.networks import head

FINE_TUNED = "fine-tuned"
EPOCHS, LEAST_STEPS, BATCH, RATE, MOMENTUM, DECAY = 8, 100, 64, 0.05, 0.9, 5e-4


class FineTuned(Scratch):
    limit = (
        "The victim goes on from the weights of one network, in one way. Another network or rate, more images or a head"
        " on frozen features is another matter."
    )

    def __init__(self, extractor: Extractor, classes: int, device: torch.device) -> None:
        self.extractor = extractor
        recipe = replace(
            extractor.trainer.recipe,
            name=FINE_TUNED,
            epochs=EPOCHS,
            least_steps=LEAST_STEPS,
            batch_size=BATCH,
            optimizer="sgd",
            lr=RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            schedule="cosine",
            warmup=0.0,
            label_smoothing=0.0,
            average=0.0,
        )
        super().__init__(recipe, classes, extractor.size, device, init=_with_new_head(extractor, classes))
        self.about = f"all weights of {extractor.id} and a new head, which learn on from the images"
        self.training.about = (
            f"all weights from those of a given network on, {EPOCHS} epochs or {LEAST_STEPS} steps of stochastic"
            " gradient descent, the head from zero"
        )
        self.ancestry = extractor.ancestry

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "extractor": self.extractor.digest}

    def told(self) -> dict[str, str]:
        return {**super().told(), "extractor": self.extractor.id, "extractor_digest": self.extractor.digest}

    def rows(self, seen: Seen, labels: Classes, classes: int, seed: int, check: Check) -> NDArray[np.float32]:
        """Those of the network as it was given."""
        return self.extractor.features(list(seen))


def _with_new_head(extractor: Extractor, classes: int) -> dict[str, Tensor]:
    """Its weights, and zeros in the place of its head, whatever that was for."""
    network = extractor.trainer.network
    last = head(network)
    (name,) = (name for name, module in network.named_modules() if module is last)
    fresh = {f"{name}.{kind}": torch.zeros(classes, *old.shape[1:]) for kind, old in last.named_parameters()}
    return extractor.trainer.state_dict() | fresh
