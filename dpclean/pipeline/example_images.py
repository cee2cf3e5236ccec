"""Pages beside OUT with a dozen examples at every stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.names import to_text
from dpclean.data.records import Entry
from dpclean.data.sources import Source
from dpclean.noise import add_noise
from dpclean.pipeline.ledger import DONE, Done, Ledger
from dpclean.pipeline.save import SANITIZE_RUN
from dpclean.pipeline.work import by_run
from dpclean.report.contact_sheet import SheetRow, write_contact_sheet

if TYPE_CHECKING:
    from dpclean.denoise.denoiser import Denoiser

EXAMPLES = 12


def entry_of(done: Done) -> Entry:
    """The listing's entry of a sample that was sanitized."""
    return Entry(done.position, to_text(done.name), done.label, to_text(done.target), None)


def pages(out: Path) -> list[Path]:
    """Where the pages of an OUT lie."""
    return [out.parent / f"{out.name}.report{ending}" for ending in (".html", ".png")]


def write_pages(out: Path, ledger: Ledger, source: Source, pool: WorkerPool, denoiser: Denoiser, key: bytes) -> None:
    """Examples spread over the listing, sanitized once more with the same noise: OUT's, but for another rounding."""
    images = ledger.count(DONE)
    wanted = {round(i * (images - 1) / (EXAMPLES - 1)) for i in range(EXAMPLES)}
    entries = [entry_of(done) for place, done in enumerate(ledger.done()) if place in wanted]
    raw = {s.entry.index: (s.entry.name, s.pixels) for s in source.samples(entries, pool) if s.pixels is not None}
    pairs = [(index, pixels) for index, (_, pixels) in raw.items()]
    runs = ledger.runs()
    clean = {
        r.index: r.pixels for run, of_run in by_run(pairs, runs) for r in denoiser.denoise(of_run, key=key, run=run)
    }
    rows = []
    for index, (name, pixels) in raw.items():
        run, indices = runs.get(index, SANITIZE_RUN), np.array([index], np.int64)
        noised = add_noise(pixels[None], denoiser.level.sigma, key=key, run=run, indices=indices)[0]
        rows.append(SheetRow(name, pixels, noised.clip(0, 255).astype(np.uint8), clean[index]))
    sigma = denoiser.level.sigma
    facts = {
        "noise": f"sigma {sigma:g} (standard deviation {255 * sigma:.1f} grey levels)",
        "denoiser": f"{denoiser.id}, {denoiser.dtype} on {denoiser.device.type}",
        "images": f"{images:,}",
        "left out": f"{sum(ledger.reasons().values()):,}",
    }
    write_contact_sheet(out.parent / f"{out.name}.report", rows, f"{out.name}: what dpclean did", facts)
