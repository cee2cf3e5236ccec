"""What an image file's own structure says before a decoder may take memory for it.

For each format: the size, limited before anything is allocated; depth; number of frames; whether the
file ends early. Decoders pad, scale or pick silently where these checks refuse.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpclean.data.safe_open import Unusable
from dpclean.errors import Reason


@dataclass(frozen=True, slots=True)
class Structure:
    """What decoding needs to know."""

    grey_step: int = 1  # factor from a PNG's transparent grey, given in the file's bits, to 8 bits
    data: bytes | None = None  # the same image without what no decoder needs, or in the form that all of them know


def inspect(format: str, data: bytes, max_pixels: int) -> Structure:
    """Checks the structure of data. Raises Unusable."""
    return _INSPECTORS[format](data, max_pixels)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuses an empty image and one above the limit."""
    if width <= 0 or height <= 0:
        raise Unusable(Reason.CORRUPT)
    if width * height > max_pixels:
        raise Unusable(Reason.TOO_MANY_PIXELS)


def _unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error as error:
        raise Unusable(Reason.TRUNCATED) from error


_GREY_STEPS = {2: 85, 4: 17}  # Pillow scales one bit itself


def _png(data: bytes, max_pixels: int) -> Structure:
    length, kind, width, height, bits = _unpack(">I4sIIB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise Unusable(Reason.CORRUPT)
    check_size(width, height, max_pixels)
    view, position, seen = memoryview(data), 8, {b""}
    kept: list[bytes | memoryview] = [data[:8]]
    frames, shown_first = 0, False
    while b"IEND" not in seen and not (position == len(data) and b"IDAT" in seen):
        length, kind = _unpack(">I4s", data, position)
        end = position + 12 + length
        (checksum,) = _unpack(">I", data, end - 4)
        whole = zlib.crc32(view[position + 4 : end - 4]) == checksum
        decides = kind in _PNG_DECIDING or not kind[0] & 0x20  # a critical chunk has a capital
        if decides and not whole:
            raise Unusable(Reason.CORRUPT)
        if kind == b"acTL" and whole and b"IDAT" not in seen:
            (frames,) = _unpack(">I", data, position + 8)
        shown_first |= kind == b"fcTL" and b"IDAT" not in seen
        if decides or (whole and _is_orientation(kind, data, position + 8)):
            kept.append(view[position:end])
        seen.add(kind)
        position = end
    if frames > 1 or (frames == 1 and not shown_first):
        raise Unusable(Reason.MULTI_FRAME)
    if bits > 8:
        raise Unusable(Reason.UNSUPPORTED_DEPTH)
    kept += [] if b"IEND" in seen else [_PNG_END]
    return Structure(_GREY_STEPS.get(bits, 1), b"".join(kept))


_PNG_DECIDING = frozenset((b"tRNS",))
_PNG_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def _is_orientation(kind: bytes, data: bytes, place: int) -> bool:
    """Whether an ancillary chunk may say how the image is turned; colour profiles and texts are not looked at."""
    return kind == b"eXIf" or (kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0\0", place))


# Within a scan, FF 00 is data and FF D0..D7 are restarts; every other marker ends it.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset(range(0xD0, 0xD9)) | {0x01}


def _jpeg(data: bytes, max_pixels: int) -> Structure:
    position, sized = 2, False
    while True:
        found = _JPEG_SCAN_END.search(data, position)
        if found is None:
            raise Unusable(Reason.TRUNCATED)
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            if not sized:
                raise Unusable(Reason.CORRUPT)
            return Structure()
        if marker in _JPEG_BARE:
            continue
        (length,) = _unpack(">H", data, position)
        if marker in _JPEG_FRAMES:
            bits, height, width = _unpack(">BHH", data, position + 2)
            check_size(width, height, max_pixels)
            if bits != 8:
                raise Unusable(Reason.UNSUPPORTED_DEPTH)
            sized = True
        position += length


def _gif(data: bytes, max_pixels: int) -> Structure:
    screen_width, screen_height, flags = _unpack("<HHB", data, 6)
    check_size(screen_width, screen_height, max_pixels)
    position, frames = 13 + _gif_palette(flags), 0
    while True:
        if frames and position == len(data):  # the frame is whole, the trailer missing
            return Structure(data=data + b"\x3b")
        (kind,) = _unpack("B", data, position)
        position += 1
        if kind == 0x21:
            position = _gif_blocks(data, position + 1)
        elif kind == 0x2C:
            left, top, width, height, flags = _unpack("<HHHHB", data, position)
            check_size(max(screen_width, left + width), max(screen_height, top + height), max_pixels)
            frames += 1
            if frames > 1:
                raise Unusable(Reason.MULTI_FRAME)
            position = _gif_blocks(data, position + 9 + _gif_palette(flags) + 1)
        elif kind == 0x3B:
            if not frames:
                raise Unusable(Reason.CORRUPT)
            return Structure()


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks(data: bytes, position: int) -> int:
    length = 1
    while length:
        (length,) = _unpack("B", data, position)
        position += 1 + length
    return position


def _webp(data: bytes, max_pixels: int) -> Structure:
    (riff,) = _unpack("<I", data, 4)
    position, end, frames = 12, 8 + riff, 0
    while position < end:
        kind, length = _unpack("<4sI", data, position)
        position += 8
        if kind == b"VP8X":
            (packed,) = _unpack("<Q", data, position + 2)  # two unneeded bytes, then 24-bit width and height, less one
            check_size((packed >> 16 & 0xFFFFFF) + 1, (packed >> 40 & 0xFFFFFF) + 1, max_pixels)
        elif kind == b"VP8 ":
            width, height = _unpack("<HH", data, position + 6)
            check_size(width & 0x3FFF, height & 0x3FFF, max_pixels)
        elif kind == b"VP8L":
            (packed,) = _unpack("<I", data, position + 1)
            check_size((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, max_pixels)
        elif kind == b"ANMF":
            frames += 1
            if frames > 1:
                raise Unusable(Reason.MULTI_FRAME)
        position += length + (length & 1)
    if end > len(data):
        raise Unusable(Reason.TRUNCATED)
    return Structure()


def _bmp(data: bytes, max_pixels: int) -> Structure:
    offset, header = _unpack("<II", data, 10)
    if header == 16:  # the short form of OS/2 2
        width, height, planes, bits = _unpack("<IIHH", data, 18)
        long = struct.pack("<IIiHHIIiiII", 40, width, height, planes, bits, 0, 0, 0, 0, 0, 0)
        data, header, offset = data[:10] + struct.pack("<I", offset + 24) + long + data[30:], 40, offset + 24
    compression = stored = 0
    if header == 12:
        width, height, bits = _unpack("<HH2xH", data, 18)
    else:
        width, height, bits, compression, stored = _unpack("<Ii2xHII", data, 18)
    check_size(width, abs(height), max_pixels)
    if bits not in (1, 4, 8, 16, 24, 32):
        raise Unusable(Reason.UNSUPPORTED_DEPTH)
    if compression in (0, 3):  # plain rows of whole 32-bit words
        stored = (width * bits + 31) // 32 * 4 * abs(height)
        missing = offset + stored - len(data)
        if 0 < missing <= stored // abs(height) - (width * bits + 7) // 8:
            data += bytes(missing)  # of the last row's padding
    if offset + stored > len(data):
        raise Unusable(Reason.TRUNCATED)
    if header >= 40 and bits <= 8 and _unpack("<I", data, 46)[0] > 1 << bits:  # more colours than a pixel can name
        data = data[:46] + struct.pack("<I", 1 << bits) + data[50:]
    if compression in _RLE_PIXELS and header >= 40:
        data = data[:offset] + _without_deltas(data[offset:], width, abs(height), _RLE_PIXELS[compression])
    return Structure(data=data)


_RLE_PIXELS = {1: 1, 2: 2}  # in a byte, by compression


def _without_deltas(codes: bytes, width: int, height: int, pixels_a_byte: int) -> bytes:
    """Run lengths that say the same without moves to another place: Pillow reads two bytes too many for these."""
    out, position, x, y = bytearray(), 0, 0, 0

    def skip(count: int) -> None:
        nonlocal x
        for length in (*[255] * (count // 255), count % 255):
            out.extend((length, 0) if length else ())
        x += count

    while position + 2 <= len(codes) and y <= height:
        count, value = codes[position : position + 2]
        length = 2
        if (count, value) == (0, 1):  # the end, also where rows are left
            for _ in range(height - y):
                skip(max(0, width - x))
                out.extend(b"\0\0")
                x = 0
            break
        if count:
            x += count
        elif value == 0:
            x, y = 0, y + 1
        elif value == 2:
            right, up = _unpack("BB", codes, position + 2)
            target = min(x + right, width)
            for _ in range(min(up, height - y)):
                skip(max(0, width - x))
                out.extend(b"\0\0")
                x, y = 0, y + 1
            skip(max(0, target - x))
            position += 4
            continue
        else:
            x, length = x + value, 2 + (-(-value // pixels_a_byte) + 1) // 2 * 2
        out += codes[position : position + length]
        position += length
    return bytes(out) + codes[position:]


_PPM_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,10})")
_PPM_SAMPLES = {b"P5": 1, b"P6": 3}
_PPM_LAST = re.compile(rb"(?<!\d)\d{1,3}\Z")


def _ppm(data: bytes, max_pixels: int) -> Structure:
    kind = data[:2]
    if kind in (b"Pf", b"PF"):
        raise Unusable(Reason.UNSUPPORTED_DEPTH)
    width, position = _ppm_number(data, 2)
    height, position = _ppm_number(data, position)
    check_size(width, height, max_pixels)
    raster = -(-width // 8) * height if kind == b"P4" else 0  # unknown for the formats in plain digits
    if kind not in (b"P1", b"P4"):
        largest, position = _ppm_number(data, position)
        if largest > 255:
            raise Unusable(Reason.UNSUPPORTED_DEPTH)
        raster = width * height * _PPM_SAMPLES.get(kind, 0)
    if position + 1 + raster > len(data):
        raise Unusable(Reason.TRUNCATED)
    if kind in (b"P2", b"P3") and (last := _PPM_LAST.search(data[max(position, len(data) - 8) :])):
        if 0 < 10 * int(last[0]) <= largest:  # it may be the beginning of a larger number
            raise Unusable(Reason.TRUNCATED)
    if kind not in _PPM_SAMPLES:
        return Structure()
    pixels = data[position + 1 : position + 1 + raster]
    if 0 < largest < 255:
        pixels = pixels.translate(bytes(min(255, (2 * 255 * value + largest) // (2 * largest)) for value in range(256)))
    return Structure(data=b"%s %d %d %d\n" % (kind, width, height, 255 if largest else 0) + pixels)


def _ppm_number(data: bytes, position: int) -> tuple[int, int]:
    found = _PPM_NUMBER.match(data, position)
    if found is None:
        raise Unusable(Reason.TRUNCATED if not data[position:].strip() else Reason.CORRUPT)
    return int(found[1]), found.end()


_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q", 18: "Q"}  # the integer types that these tags have
_TIFF_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # by type
_WIDTH, _HEIGHT, _BITS, _SAMPLE_FORMAT = 256, 257, 258, 339
_COMPRESSION, _PHOTOMETRIC, _SUBSAMPLING, _YCBCR = 259, 262, 530, 6
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles


def _tiff(data: bytes, max_pixels: int) -> Structure:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (directory,) = _unpack(order + ("Q" if big else "I"), data, 8 if big else 4)
    tags, following = _tiff_directory(data, directory, order, big)
    size = tags.get(_WIDTH), tags.get(_HEIGHT)
    if not size[0] or not size[1]:
        raise Unusable(Reason.CORRUPT)
    check_size(size[0][0], size[1][0], max_pixels)
    if following:
        raise Unusable(Reason.MULTI_FRAME)
    plain_ycbcr = tags.get(_PHOTOMETRIC) == (_YCBCR,) and tags.get(_COMPRESSION, (1,)) == (1,)
    if plain_ycbcr and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise Unusable(Reason.FORMAT_NOT_ALLOWED)
    if max(tags.get(_BITS, (1,))) > 8 or any(kind not in (1, 4) for kind in tags.get(_SAMPLE_FORMAT, (1,))):
        raise Unusable(Reason.UNSUPPORTED_DEPTH)
    for offsets, counts in _PLACES:
        ends = map(sum, zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False))
        if max(ends, default=0) > len(data):
            raise Unusable(Reason.TRUNCATED)
    return Structure()


def _tiff_directory(data: bytes, position: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """The tags that matter, with their values, and the position of the next directory (0: none)."""
    wanted = {
        _WIDTH,
        _HEIGHT,
        _BITS,
        _SAMPLE_FORMAT,
        _COMPRESSION,
        _PHOTOMETRIC,
        _SUBSAMPLING,
        *(tag for pair in _PLACES for tag in pair),
    }
    head, row, inline, word = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    row_bytes = struct.calcsize(order + row) + inline
    (count,) = _unpack(order + head, data, position)
    position += struct.calcsize(order + head)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(position, min(position + count * row_bytes, len(data) + row_bytes), row_bytes):
        tag, kind, length = _unpack(order + row, data, at)
        place, size = at + row_bytes - inline, length * (_TIFF_TYPE_BYTES[kind] if kind < len(_TIFF_TYPE_BYTES) else 0)
        if size > inline:
            (place,) = _unpack(order + word, data, place)
        if place + size > len(data):
            raise Unusable(Reason.TRUNCATED)
        if tag in wanted and kind in _TIFF_TYPES:
            tags[tag] = _unpack(f"{order}{length}{_TIFF_TYPES[kind]}", data, place)
    (following,) = _unpack(order + word, data, position + count * row_bytes)
    return tags, following


_INSPECTORS: dict[str, Callable[[bytes, int], Structure]] = {
    "png": _png,
    "jpeg": _jpeg,
    "gif": _gif,
    "webp": _webp,
    "bmp": _bmp,
    "ppm": _ppm,
    "tiff": _tiff,
}
