"""Image formats: what an ending claims, what the first bytes say, what ending an output gets."""

from __future__ import annotations

import re

# Endings of the formats that are read, in lower case.
READ_ENDINGS = {
    **dict.fromkeys((".png", ".apng"), "png"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".bmp", ".dib"), "bmp"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "ppm"),
    ".webp": "webp",
    ".gif": "gif",
}
# Endings that say image too, of formats that are not read.
OTHER_ENDINGS = frozenset(
    ".svg .svgz .heic .heif .hif .avif .ico .cur .icns .psd .psb .jp2 .j2k .jpx .jpf .jxl .jxr .exr .hdr .dds .tga "
    ".pcx .xcf .eps .qoi .pfm .pam .sgi .xbm .xpm .wmf .emf .fits .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .dcm".split()
)
OUTPUT_ENDINGS = {"png": ".png", "webp": ".webp", "bmp": ".bmp", "tiff": ".tiff", "ppm": ".ppm"}

PREFIX_BYTES = 4096  # what sniff and is_other_image need to see

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM = re.compile(rb"P[1-6](\s|#[^\r\n]*[\r\n])+(\d|\Z)|P[fF]\s+\d")
_OTHER_MAGIC = re.compile(
    rb"8BPS|\0\0[\1\2]\0[^\0]\0|icns|....ftyp(hei|hev|mif1|msf1|avi[fs])|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\xff\x0a"
    rb"|\0\0\0\x0cJXL |DDS |qoif|\x76\x2f\x31\x01|#\?RADIANCE|gimp xcf|P7\n|%!PS-Adobe.*EPSF|\x0a[\0-\5]\1[\1\2\4\x08]"
    rb"|(\xef\xbb\xbf)?\s*(<\?xml.{0,2000}?|<!--.{0,2000}?|<!DOCTYPE\s+)*<?svg[\s>]",
    re.DOTALL,
)


def split_ending(name: str) -> tuple[str, str]:
    """Name and last ending with its dot; a name that begins with its only dot has none."""
    dot = name.rfind(".", name.rfind("/") + 2)
    return (name[:dot], name[dot:]) if dot > 0 else (name, "")


def claims_image(name: str) -> bool:
    """Whether the ending, in any case, says image."""
    ending = split_ending(name)[1].lower()
    return ending in READ_ENDINGS or ending in OTHER_ENDINGS


def claims_other_image(name: str) -> bool:
    """Whether the ending says an image format that is not read."""
    return split_ending(name)[1].lower() in OTHER_ENDINGS


def stem(name: str) -> str:
    """The name without a known image ending; the whole name where its ending is none."""
    front, ending = split_ending(name)
    return front if ending.lower() in READ_ENDINGS or ending.lower() in OTHER_ENDINGS else name


def sniff(data: bytes) -> str | None:
    """The format that the first bytes say, among those that are read; a cut-off beginning counts."""
    for magic, format in _MAGIC.items():
        if data.startswith(magic) or (2 <= len(data) < len(magic) and magic.startswith(data)):
            return format
    if data.startswith(b"RIFF") and b"WEBP".startswith(data[8:12]):
        return "webp"
    if data.startswith(b"BM") and (len(data) < 18 or int.from_bytes(data[14:18], "little") in _BMP_HEADERS):
        return "bmp"
    return "ppm" if _PPM.match(data) else None


def is_other_image(data: bytes) -> bool:
    """Whether the first bytes are those of an image format that is not read."""
    return _OTHER_MAGIC.match(data[:PREFIX_BYTES]) is not None
