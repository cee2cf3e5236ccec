"""A page that shows a few images at several noise levels, for whoever has to choose one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.selection import selected
from dpclean.data.sources import open_source
from dpclean.errors import InputError, UsageError
from dpclean.jobs.checks import given_path, options_of
from dpclean.jobs.staging import Staging
from dpclean.noise.keys import draw_key
from dpclean.pipeline.options import SanitizeKeywords, SanitizeOptions
from dpclean.report.contact_sheet import detailed, write_sigma_sheet

EXAMPLES = 8
MOST_SIGMAS = 8  # more do not fit on a page
EDGE = 512  # pixels: of larger images only the square with the most detail, so that the page is there soon


def sigma_sheet(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sigmas: Sequence[float],
    **options: Unpack[SanitizeKeywords],
) -> list[str]:
    """Write OUT.sigmas.html and .png, beside where OUT would be, and return their paths; OUT is not made.

    sigmas: noise levels on the [0, 1] pixel scale, shown in this order. options: as those of `sanitize`. The noise
    is drawn under a key that is thrown away. Raises UsageError, InputError, SetupError.
    """
    if not 1 <= len(sigmas) <= MOST_SIGMAS:
        raise UsageError(
            f"a sheet shows 1 to {MOST_SIGMAS} noise levels, got {len(sigmas)}", "give for example 0.1,0.25"
        )
    asked = [options_of(SanitizeOptions, "sanitize", {"sigma": sigma, **options}) for sigma in sigmas]
    source = open_source(given_path(raw).resolve(), asked[0].data_options())
    place = Staging(Path(out)).out

    def entries() -> Any:
        return selected(source, asked[0].limit, asked[0].sample)

    last = sum(1 for _ in entries()) - 1
    wanted = {round(i * last / (EXAMPLES - 1)) for i in range(EXAMPLES)}
    chosen = [entry for position, entry in enumerate(entries()) if position in wanted]
    with WorkerPool(1, asked[0].data_options()) as pool:
        read = {s.entry.index: (s.entry.name, s.pixels) for s in source.samples(chosen, pool) if s.pixels is not None}
    if not read:
        raise InputError(f"none of {len(chosen)} inputs looked at in {str(raw)!r} is an image", "look at RAW")
    shown = {index: pixels[detailed(pixels, EDGE)] for index, (_, pixels) in read.items()}
    by_sigma = [_denoised(level, shown) for level in asked]
    rows = [(name, shown[index], [clean[index] for clean in by_sigma]) for index, (name, _) in read.items()]
    facts = {"denoiser": asked[0].denoiser, "images": f"{len(rows)} of {last + 1:,}"}
    if any(shown[index].shape != pixels.shape for index, (_, pixels) in read.items()):
        facts["size"] = f"of images above {EDGE} pixels, the part with the most detail"
    place.parent.mkdir(parents=True, exist_ok=True)
    title = f"{place.name}: which sigma?"
    pages = write_sigma_sheet(place.parent / f"{place.name}.sigmas", rows, sigmas, title, facts)
    return [str(page) for page in reversed(pages)]


def _denoised(options: SanitizeOptions, images: dict[int, Any]) -> dict[int, Any]:
    from dpclean.denoise.denoiser import Denoiser
    from dpclean.denoise.loading import find_denoiser

    o = options
    denoiser = Denoiser(
        find_denoiser(o.denoiser), o.sigma, device=o.device, dtype=o.dtype, method=o.method, batch_pixels=o.batch_pixels
    )
    return {result.index: result.pixels for result in denoiser.denoise(list(images.items()), key=draw_key())}
