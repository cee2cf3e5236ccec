"""Bytes of strangers to pixels: Pillow, within limits, and a reason from the closed list where it cannot be done."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dpclean.data.decoding.image_headers import check_size, inspect
from dpclean.data.formats import is_other_image, sniff
from dpclean.data.records import DataOptions
from dpclean.data.safe_open import Unusable
from dpclean.errors import Reason

WEBP_LARGEST_SIDE = 16383

# Opened by class, so that no other format of Pillow's ever sees the bytes.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}
_STRIP_PIXELS = 1 << 20  # converted at a time: a large image is never held three times
_ORIENTATION, _COLOUR_MAP = 0x0112, 320


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image: pixels uint8 [H,W,C], C 1 or 3; alpha uint8 [H,W] only where it is kept."""

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    format: str


def decode(data: bytes, options: DataOptions) -> Decoded | Reason:
    """The image in data, orientation applied and metadata dropped, or why there is none."""
    if not data:
        return Reason.EMPTY
    format = sniff(data)
    if format is None:
        return Reason.FORMAT_NOT_ALLOWED if is_other_image(data) else Reason.NOT_AN_IMAGE
    try:
        return _decode(format, data, options)
    except Unusable as refusal:
        return refusal.reason
    except MemoryError:
        return Reason.DECODER_DIED
    except Exception as error:  # on hostile bytes Pillow raises nearly anything
        short = ("truncated", "not enough image data", "Truncated", "unexpected end")
        if "Unsupported BMP bitfields" in str(error):
            return Reason.UNSUPPORTED_DEPTH
        return Reason.TRUNCATED if any(word in str(error) for word in short) else Reason.CORRUPT


def _decode(format: str, data: bytes, options: DataOptions) -> Decoded:
    structure = inspect(format, data, options.max_pixels)
    with _READERS[format](io.BytesIO(data if structure.data is None else structure.data)) as image:
        check_size(*image.size, options.max_pixels)  # as Pillow understands the header
        if options.output_format == "webp" and max(image.size) > WEBP_LARGEST_SIDE:
            raise Unusable(Reason.TOO_MANY_PIXELS)
        multiplied = options.alpha_policy == "composite" and _as_multiplied(image)
        image.load()
        _mend_meaning(format, image)
        pixels, alpha = _planes(image, options, structure.grey_step, multiplied)
        orientation = 1 if format == "tiff" else _orientation(image)  # Pillow turns a TIFF while loading it
    pixels = _oriented(pixels, orientation)
    if alpha is not None:
        alpha = _oriented(alpha, orientation)
    return Decoded(pixels, alpha, format)


def _mend_meaning(format: str, image: Image.Image) -> None:
    """What other decoders make of values that Pillow takes at their word, and that then leave nothing to see."""
    if format == "bmp" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        image.putalpha(255)  # alpha that is 0 everywhere was never written
    if format == "tiff" and image.mode == "P" and isinstance(image, TiffImagePlugin.TiffImageFile):
        map = image.tag_v2.get(_COLOUR_MAP, ())
        if map and max(map) < 256 and image.palette is not None:  # written in 8 bits, where 16 are meant
            planes = np.array(map[: len(map) // 3 * 3], np.uint8).reshape(3, -1)
            image.putpalette(planes.T.tobytes())


def _planes(
    image: Image.Image, options: DataOptions, grey_step: int, multiplied: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Pixels [H,W,C], and alpha [H,W] where it is kept, in the orientation of the file."""
    mode, key = _target_mode(image), None
    if mode in ("L", "RGB") and image.mode != "P" and "transparency" in image.info:
        key = np.array(image.info["transparency"]) * (grey_step if mode == "L" else 1)
    has_alpha = key is not None or mode in ("LA", "RGBA")
    if has_alpha and options.alpha_policy == "reject":
        raise Unusable(Reason.ALPHA)
    width, height = image.size
    channels = 1 if mode in ("L", "LA") else 3
    if channels > options.channels:
        raise Unusable(Reason.COLOUR)
    pixels = np.empty((height, width, channels), np.uint8)
    kept = np.empty((height, width), np.uint8) if has_alpha and options.alpha_policy == "keep" else None
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        values = np.asarray(strip if strip.mode == mode else strip.convert(mode)).reshape(bottom - top, width, -1)
        colour = values[:, :, :channels]
        if has_alpha:
            alpha = values[:, :, channels] if key is None else _keyed(colour, key)
            if options.alpha_policy == "composite":
                colour = _over_white(colour, alpha) if multiplied else _on_white(colour, alpha)
            elif kept is not None:
                kept[top:bottom] = alpha
        pixels[top:bottom] = colour
    return pixels, kept


def _target_mode(image: Image.Image) -> str:
    """L, LA, RGB or RGBA: grey stays grey, everything else becomes RGB; alpha in any form stays alpha here."""
    if image.mode in ("1", "L") or (image.format == "BMP" and image.mode == "P" and _is_grey(image)):
        return "L"
    if image.mode in ("LA", "La"):
        return "LA"
    if image.mode in ("RGBA", "RGBa", "PA") or (image.mode == "P" and "transparency" in image.info):
        return "RGBA"
    if image.mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        return "RGB"
    raise Unusable(Reason.UNSUPPORTED_DEPTH)


def _is_grey(image: Image.Image) -> bool:
    """Whether each colour of a palette is a grey."""
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _keyed(colour: NDArray[np.uint8], key: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Alpha of an image in which one colour is transparent."""
    return np.where((colour == key).all(axis=2), 0, 255).astype(np.uint8)


def _on_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composited on white, rounded to nearest; hidden colours leave no trace."""
    weight = alpha[:, :, None].astype(np.uint16)
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same of colours that were multiplied by alpha when the file was written: nothing is rounded."""
    added = 255 - np.maximum(alpha[:, :, None], colour)  # a colour above its alpha becomes white
    white: NDArray[np.uint8] = colour + added
    return white


def _as_multiplied(image: ImageFile.ImageFile) -> bool:
    """Whether a TIFF's colours are multiplied by alpha; they are then loaded as they are, not divided and rounded."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode != "RGBA":
        return False
    tiles = [(tile, tile.args) for tile in image.tile if isinstance(tile.args, tuple) and "RGBa" in tile.args]
    if tiles:
        straight = (tuple("RGBA" if value == "RGBa" else value for value in args) for _, args in tiles)
        image.tile = [tile._replace(args=args) for (tile, _), args in zip(tiles, straight, strict=True)]
    return bool(tiles)


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # metadata too broken to read says nothing about orientation
        return 1
    return value if isinstance(value, int) else 1


def _oriented(plane: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The plane [H,W,...] turned as EXIF says; values outside 1..8 mean 1."""
    if orientation in (5, 6, 7, 8):
        plane = plane.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1]
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)
