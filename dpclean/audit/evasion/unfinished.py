"""A descent that takes long: how far it has come is saved now and then, and the same command goes on from there."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from dpclean.jobs.durable import sealed, unsealed, write_durably

SAVE_SECONDS = 30.0  # between two savings


class Unfinished:
    """Of one batch of images. begun: how many steps are done, and the change so far, [N,C,H,W]; None at first."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.begun: tuple[int, Tensor] | None = None
        self._path, self._saved, self._started = path, time.monotonic(), (time.monotonic(), time.process_time())
        self._spent = 0.0, 0.0  # before
        if path.exists():
            kept = load(unsealed(path))
            self.begun = int(kept["done"]), kept["change"].to(device)
            self._spent = float(kept["spent"][0]), float(kept["spent"][1])

    def keep(self, done: int, change: Tensor) -> None:
        """To be called after each step."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            spent = torch.tensor(self.spent(), dtype=torch.float64)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            state = {"done": torch.tensor(done), "change": change.contiguous(), "spent": spent}
            write_durably(self._path, sealed(save(state)))
            self._saved = time.monotonic()

    def spent(self) -> tuple[float, float]:
        """Seconds, and those of the processor in all threads without a GPU's; of calls before this one too, but for
        what these had not saved.
        """
        seconds, processor = self._started
        return self._spent[0] + time.monotonic() - seconds, self._spent[1] + time.process_time() - processor
