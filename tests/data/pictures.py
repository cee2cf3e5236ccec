"""Small real image files, made where they are needed."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import Entry, Sample
from dpclean.data.sources import Source

FORMATS = ("png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm")
LOSSLESS = ("png", "webp", "bmp", "tiff", "ppm")


def noise(height: int = 13, width: int = 17, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    if format == "webp":
        options.setdefault("lossless", True)
    image.save(out, format.upper(), **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 4, height: int = 4, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG of these chunks, put between IHDR and IEND."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_png(path: Path, seed: int = 0) -> Path:
    return write(path, saved(to_image(noise(seed=seed)), "png"))


def read_all(source: Source, pool: WorkerPool) -> list[Sample]:
    return list(source.samples(source.entries(), pool))


def by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}
