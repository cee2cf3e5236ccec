"""Every rule for what is read, how it becomes pixels, and why something is left out."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from dpclean.data.decoding.decode import Decoded, decode
from dpclean.data.records import DataOptions
from dpclean.errors import Reason
from tests.data.pictures import FORMATS, LOSSLESS, noise, png, png_chunk, saved, to_image

OPTIONS = DataOptions()


def pixels_of(data: bytes, options: DataOptions = OPTIONS) -> np.ndarray:
    decoded = decode(data, options)
    assert isinstance(decoded, Decoded), decoded
    return decoded.pixels


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("shape", [(13, 17, 3), (1, 1, 3), (1, 31, 3), (31, 1, 3), (2, 2000, 3)])
def test_lossless_formats_give_their_pixels(format: str, shape: tuple[int, int, int]) -> None:
    pixels = noise(*shape)
    decoded = decode(saved(to_image(pixels), format), OPTIONS)
    assert isinstance(decoded, Decoded) and decoded.format == format and decoded.alpha is None
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.flags.c_contiguous
    np.testing.assert_array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize("format", ["png", "jpeg", "bmp", "tiff", "gif", "ppm"])
def test_grey_stays_grey(format: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    if format == "jpeg":
        grey = np.full((8, 8, 1), 77, np.uint8)
    np.testing.assert_array_equal(pixels_of(saved(to_image(grey), format)), grey)


def test_jpeg_and_gif_give_what_pillow_gives() -> None:
    image = to_image(noise())
    for format in ("jpeg", "gif"):
        data = saved(image, format)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(pixels_of(data), expected)


def test_a_large_image_is_converted_in_strips_without_a_seam() -> None:
    pixels = noise(1500, 1500)
    alpha = noise(1500, 1500, 1)
    data = saved(Image.fromarray(np.dstack([pixels, alpha])), "png", compress_level=0)
    np.testing.assert_array_equal(pixels_of(data, DataOptions(alpha_policy="drop")), pixels)
    np.testing.assert_array_equal(
        pixels_of(data), np.rint(pixels * (alpha / 255.0) + 255 * (1 - alpha / 255.0)).astype(np.uint8)
    )


# --- content that is no image -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"hello, world\n", Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7\n", Reason.NOT_AN_IMAGE),
        (b"\x7fELF\x02\x01\x01", Reason.NOT_AN_IMAGE),
        (b"P1 is the first priority", Reason.NOT_AN_IMAGE),
        (b"BMW makes cars and motorcycles", Reason.NOT_AN_IMAGE),
        (b"8BPS\0\1" + bytes(20), Reason.FORMAT_NOT_ALLOWED),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.FORMAT_NOT_ALLOWED),
        (b"\0\0\0\x18ftypheic" + bytes(20), Reason.FORMAT_NOT_ALLOWED),
        (b"\0\0\0\x18ftypavif" + bytes(20), Reason.FORMAT_NOT_ALLOWED),
        (b"\0\0\0\x0cjP  \r\n\x87\n", Reason.FORMAT_NOT_ALLOWED),
    ],
)
def test_what_is_no_image_that_is_read(data: bytes, reason: Reason) -> None:
    assert decode(data, OPTIONS) is reason


def test_an_icon_is_not_allowed() -> None:
    assert decode(saved(to_image(noise(32, 32)), "ico"), OPTIONS) is Reason.FORMAT_NOT_ALLOWED


def test_pillows_private_ppm_formats_are_not_read() -> None:
    assert decode(b"PyRGBA 2 2 255\n" + bytes(16), OPTIONS) is Reason.NOT_AN_IMAGE


# --- truncated and corrupt --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("grey", [True, False])
def test_a_cut_off_file_is_never_padded(format: str, grey: bool) -> None:
    data = saved(to_image(noise(40, 50, 1 if grey else 3)), format)
    places = {4, 10, 15, 20, 30, len(data) // 4, len(data) // 2, len(data) * 3 // 4, len(data) - 3, len(data) - 1}
    places -= {len(data) - 1} if format in ("gif", "bmp") else set()  # what is missing there holds no pixel
    assert isinstance(decode(data, OPTIONS), Decoded)
    for place in sorted(places):
        assert decode(data[:place], OPTIONS) is Reason.TRUNCATED, place


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_a_cut_off_compressed_tiff(options: dict[str, str]) -> None:
    data = saved(to_image(noise(40, 50)), "tiff", **options)
    assert isinstance(decode(data, OPTIONS), Decoded)
    for place in (len(data) // 2, len(data) - 1):
        assert decode(data[:place], OPTIONS) is Reason.TRUNCATED


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"exif": b"Exif\0\0" + bytes(500)}])
def test_cut_off_jpegs(options: dict[str, object]) -> None:
    data = saved(to_image(noise(40, 50)), "jpeg", **options)
    assert isinstance(decode(data, OPTIONS), Decoded)
    assert isinstance(decode(data + b"bytes behind the end", OPTIONS), Decoded)
    for place in (3, 100, len(data) // 2, len(data) - 1):
        assert decode(data[:place], OPTIONS) is Reason.TRUNCATED


def test_a_thumbnail_does_not_end_its_jpeg() -> None:
    thumbnail = saved(to_image(noise(8, 8)), "jpeg")
    data = saved(to_image(noise(40, 50)), "jpeg", exif=b"Exif\0\0" + thumbnail)
    assert decode(data[:-1], OPTIONS) is Reason.TRUNCATED


def test_png_with_too_few_rows() -> None:
    rows = zlib.compress(bytes(5) * 2)
    assert decode(png(png_chunk(b"IDAT", rows[:-6])), OPTIONS) in (Reason.TRUNCATED, Reason.CORRUPT)


def test_a_wrong_checksum_is_corrupt() -> None:
    data = bytearray(saved(to_image(noise()), "png"))
    data[data.index(b"IDAT") + 20] ^= 1
    assert decode(bytes(data), OPTIONS) is Reason.CORRUPT


def test_a_broken_huffman_table_is_corrupt() -> None:
    data = bytearray(saved(to_image(noise()), "jpeg"))
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 21] = b"\xff" * 16
    assert decode(bytes(data), OPTIONS) is Reason.CORRUPT


@pytest.mark.parametrize("format", FORMATS)
@given(seed=st.integers(0, 10_000))
def test_flipped_bits_give_an_image_or_a_reason(format: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(saved(to_image(noise(9, 11)), format))
    for _ in range(random.integers(1, 8)):
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    assert isinstance(decode(bytes(data), DataOptions(max_pixels=1000)), Decoded | Reason)


# --- limits -----------------------------------------------------------------------------------------------------------


def bomb(format: str) -> bytes:
    """A header that claims 65,535 x 65,535 pixels (16,383 for WebP), and next to nothing behind it."""
    side = 65535
    if format == "png":
        return png(png_chunk(b"IDAT", b""), width=side, height=side)
    if format == "webp":
        payload = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14)
        return b"RIFF" + struct.pack("<I", 18) + b"WEBPVP8L" + struct.pack("<I", 5) + payload + b"\0"
    if format == "ppm":
        return b"P6 65535 65535 255\n"
    data = bytearray(saved(to_image(noise()), format))
    if format == "jpeg":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    elif format == "gif":
        data[6:10] = struct.pack("<HH", side, side)
    elif format == "bmp":
        data[18:26] = struct.pack("<ii", side, side)
    else:
        for tag in (256, 257):
            place = data.index(struct.pack("<HHI", tag, 4, 1))
            data[place + 8 : place + 12] = struct.pack("<I", side)
    return bytes(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_bomb_is_refused_from_its_header(format: str) -> None:
    assert decode(bomb(format), OPTIONS) is Reason.TOO_MANY_PIXELS
    assert decode(bomb(format)[:200], OPTIONS) is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_is_inclusive(format: str) -> None:
    data = saved(to_image(noise(10, 10)), format)
    assert isinstance(decode(data, DataOptions(max_pixels=100)), Decoded)
    assert decode(data, DataOptions(max_pixels=99)) is Reason.TOO_MANY_PIXELS


def test_a_gif_frame_larger_than_its_screen_counts() -> None:
    data = bytearray(saved(to_image(noise(10, 10)), "gif"))
    data[6:10] = struct.pack("<HH", 1, 1)
    assert decode(bytes(data), DataOptions(max_pixels=99)) is Reason.TOO_MANY_PIXELS


def test_zip_bombs_in_text_and_profile_chunks() -> None:
    packed = zlib.compress(bytes(50 << 20), 9)
    rows = png_chunk(b"IDAT", zlib.compress(bytes(5) * 4))
    assert isinstance(decode(png(rows), OPTIONS), Decoded)
    for chunk in (png_chunk(b"zTXt", b"a\0\0" + packed), png_chunk(b"iCCP", b"a\0\0" + packed)):
        assert pixels_of(png(chunk, rows)).tobytes() == bytes(16)


def test_webp_out_cannot_hold_a_long_side() -> None:
    data = saved(to_image(noise(1, 16384)), "png")
    assert decode(data, DataOptions(output_format="webp")) is Reason.TOO_MANY_PIXELS
    assert pixels_of(data).shape == (1, 16384, 3)


# --- depth and frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)), "png"),
        png(png_chunk(b"IDAT", zlib.compress(bytes(25) * 4)), bits=16, colour=2),
        png(png_chunk(b"IDAT", zlib.compress(bytes(33) * 4)), bits=16, colour=6),
        saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)), "tiff"),
        saved(Image.fromarray(np.ones((4, 4), np.float32)), "tiff"),
        saved(Image.fromarray(np.ones((4, 4), np.int32)), "tiff"),
        saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)), "ppm"),
        b"P6 2 2 65535\n" + bytes(24),
        b"Pf 2 2 -1.0\n" + bytes(16),
    ],
)
def test_more_than_eight_bits_are_unsupported(data: bytes) -> None:
    assert decode(data, OPTIONS) is Reason.UNSUPPORTED_DEPTH


@pytest.mark.parametrize("format", ["png", "tiff", "bmp", "ppm"])
def test_one_bit_becomes_black_and_white(format: str) -> None:
    bits = np.eye(9, dtype=bool)
    np.testing.assert_array_equal(
        pixels_of(saved(Image.fromarray(bits), format))[:, :, 0], np.where(bits, 255, 0).astype(np.uint8)
    )


@pytest.mark.parametrize("format", ["gif", "webp", "tiff", "png"])
def test_more_than_one_frame_is_refused(format: str) -> None:
    frames = [to_image(noise(seed=seed)) for seed in range(3)]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert decode(data, OPTIONS) is Reason.MULTI_FRAME


# --- colour and alpha -------------------------------------------------------------------------------------------------


def test_palettes_become_rgb() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [1, 2, 3]]]
    for format in ("png", "bmp", "tiff", "gif"):
        np.testing.assert_array_equal(pixels_of(saved(image, format)), expected)


@pytest.mark.parametrize("format", ["tiff", "jpeg"])
def test_cmyk_becomes_rgb(format: str) -> None:
    options = {"quality": 100} if format == "jpeg" else {}
    data = saved(Image.new("CMYK", (8, 8), (0, 128, 255, 0)), format, **options)
    assert np.abs(pixels_of(data).astype(int) - [255, 127, 0]).max() <= 2


def test_ycck_becomes_rgb() -> None:
    """A CMYK JPEG whose Adobe marker says that its planes are YCC and K."""
    data = bytearray(saved(Image.new("CMYK", (8, 8), (0, 128, 255, 0)), "jpeg", quality=100))
    assert b"Adobe" in data
    inks = data[data.index(b"Adobe") + 11]
    data[data.index(b"Adobe") + 11] = 2
    assert inks != 2
    expected = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    np.testing.assert_array_equal(pixels_of(bytes(data)), expected)
    assert not np.array_equal(expected, pixels_of(saved(Image.new("CMYK", (8, 8), (0, 128, 255, 0)), "jpeg")))


def test_lab_becomes_rgb() -> None:
    data = saved(Image.new("LAB", (4, 4), (136, 208, 195)), "tiff")  # sRGB red in CIELAB, offset by 128
    pixels = pixels_of(data)
    assert pixels.shape == (4, 4, 3) and np.abs(pixels[0, 0].astype(int) - [255, 0, 0]).max() <= 12


def transparent(mode: str) -> Image.Image:
    """Two pixels: colour (200, 100, 50) or grey 200 at alpha 0 and at alpha 128."""
    colour = (200, 100, 50) if mode == "RGBA" else (200,)
    return Image.fromarray(np.array([[[*colour, 0], [*colour, 128]]], np.uint8))


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", [200, 100, 50]), ("LA", [200])])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_alpha_policies(mode: str, colour: list[int], format: str) -> None:
    data = saved(transparent(mode), format)
    seen = [round(value * 128 / 255 + 255 * 127 / 255) for value in colour]
    np.testing.assert_array_equal(pixels_of(data), [[[255] * len(colour), seen]])
    np.testing.assert_array_equal(pixels_of(data, DataOptions(alpha_policy="drop")), [[colour, colour]])
    kept = decode(data, DataOptions(alpha_policy="keep"))
    assert isinstance(kept, Decoded) and kept.alpha is not None
    np.testing.assert_array_equal(kept.alpha, [[0, 128]])
    np.testing.assert_array_equal(kept.pixels, [[colour, colour]])
    assert decode(data, DataOptions(alpha_policy="reject")) is Reason.ALPHA


def test_opaque_alpha_changes_nothing_but_is_alpha() -> None:
    pixels = noise()
    data = saved(Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])), "png")
    np.testing.assert_array_equal(pixels_of(data), pixels)
    assert decode(data, DataOptions(alpha_policy="reject")) is Reason.ALPHA


def test_alpha_in_webp_and_gif() -> None:
    webp = saved(transparent("RGBA"), "webp", exact=True)
    np.testing.assert_array_equal(pixels_of(webp, DataOptions(alpha_policy="drop"))[0, 0], [200, 100, 50])
    np.testing.assert_array_equal(pixels_of(webp)[0, 0], [255, 255, 255])
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    gif = saved(image, "gif", transparency=0)
    np.testing.assert_array_equal(pixels_of(gif), [[[255, 255, 255], [40, 50, 60]]])


def test_transparent_palette_entries_and_colours_in_png() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = saved(image, "png", transparency=bytes([0, 255, 128]))
    seen = [round(value * 128 / 255 + 127) for value in (70, 80, 90)]
    np.testing.assert_array_equal(pixels_of(data), [[[255] * 3, [40, 50, 60], seen]])
    rgb = saved(Image.fromarray(np.array([[[1, 2, 3], [3, 2, 1]]], np.uint8)), "png", transparency=(3, 2, 1))
    np.testing.assert_array_equal(pixels_of(rgb), [[[1, 2, 3], [255] * 3]])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_is_given_in_the_bits_of_the_file(bits: int) -> None:
    rows = zlib.compress(b"\0" + bytes([1 << (8 - bits)]))  # one row that begins with a 1
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    data = png(key, png_chunk(b"IDAT", rows), width=1, height=1, bits=bits)
    np.testing.assert_array_equal(pixels_of(data), [[[255]]])
    decoded = decode(data, DataOptions(alpha_policy="keep"))
    assert isinstance(decoded, Decoded) and decoded.alpha is not None and decoded.alpha[0, 0] == 0


# --- metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = to_image(noise())
    data = saved(image, format, exif=exif)
    plain = Image.fromarray(pixels_of(saved(image, format)))
    plain.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(pixels_of(data), np.asarray(ImageOps.exif_transpose(plain)))


def test_orientation_turns_the_alpha_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(saved(transparent("RGBA"), "png", exif=exif), DataOptions(alpha_policy="keep"))
    assert isinstance(decoded, Decoded) and decoded.alpha is not None
    np.testing.assert_array_equal(decoded.alpha, [[0], [128]])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_means_upright(exif: bytes) -> None:
    image = to_image(noise())
    np.testing.assert_array_equal(pixels_of(saved(image, "jpeg", exif=exif)), pixels_of(saved(image, "jpeg")))


def test_orientation_out_of_range_means_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(pixels_of(saved(to_image(noise()), "png", exif=exif)), noise())


def test_ten_megabytes_of_metadata() -> None:
    info = PngInfo()
    info.add(b"tEXt", b"a\0" + b"b" * (10 << 20))
    np.testing.assert_array_equal(pixels_of(saved(to_image(noise()), "png", pnginfo=info)), noise())


# --- what other decoders show -----------------------------------------------------------------------------------------


GREY = bytes(range(0, 160, 10))  # 4 x 4
GREY_ROWS = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + GREY[i : i + 4] for i in range(0, 16, 4))))
BROKEN = png_chunk(b"pHYs", bytes(9))[:-1] + b"?"


@pytest.mark.parametrize(
    "chunks",
    [
        (png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3 << 20))), GREY_ROWS),
        (png_chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(3 << 20))), GREY_ROWS),
        (png_chunk(b"iCCP", b"profile\0\0no zlib"), GREY_ROWS),
        (BROKEN, GREY_ROWS),
        (GREY_ROWS, BROKEN),
        (png_chunk(b"acTL", bytes((0, 0, 0, 1, 0, 0, 0, 0))), png_chunk(b"fcTL", bytes(26)), GREY_ROWS),
        (GREY_ROWS, png_chunk(b"acTL", bytes((0, 0, 0, 2, 0, 0, 0, 0)))),
    ],
    ids=["large profile", "large text", "broken profile", "wrong sum", "wrong sum behind", "one frame", "late frames"],
)
def test_what_a_png_carries_beside_its_pixels_is_not_looked_at(chunks: tuple[bytes, ...]) -> None:
    assert pixels_of(png(*chunks)).tobytes() == GREY
    assert pixels_of(png(*chunks)[:-12]).tobytes() == GREY  # the end chunk is missing


def test_what_decides_a_png_s_pixels_is_looked_at() -> None:
    wrong = bytearray(GREY_ROWS)
    wrong[-1] ^= 1
    assert decode(png(bytes(wrong)), OPTIONS) is Reason.CORRUPT
    assert decode(png(png_chunk(b"tRNS", b"\0\1")[:-1] + b"?", GREY_ROWS), OPTIONS) is Reason.CORRUPT
    two, hidden = (png_chunk(b"acTL", bytes((0, 0, 0, count, 0, 0, 0, 0))) for count in (2, 1))
    assert decode(png(two, png_chunk(b"fcTL", bytes(26)), GREY_ROWS), OPTIONS) is Reason.MULTI_FRAME
    assert decode(png(hidden, GREY_ROWS), OPTIONS) is Reason.MULTI_FRAME
    assert decode(png(GREY_ROWS)[:-13], OPTIONS) is Reason.TRUNCATED


def bmp(
    rows: bytes, bits: int, *, header: bytes = b"", palette: bytes = b"", compression: int = 0, used: int = 0
) -> bytes:
    """2 x 2."""
    header = header or struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, bits, compression, len(rows), 0, 0, used, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def test_alpha_that_was_never_written_does_not_make_a_bitmap_white() -> None:
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + masks + bytes(68)
    rows = bytes((1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11, 12, 0))
    upright = bytes((9, 8, 7, 12, 11, 10, 3, 2, 1, 6, 5, 4))
    assert pixels_of(bmp(rows, 32, header=header)).tobytes() == upright
    seen = bytearray(rows)
    seen[3] = 255  # one pixel that can be seen: the alpha is meant
    assert pixels_of(bmp(bytes(seen), 32, header=header))[0].tolist() == [[255] * 3] * 2


def test_bitmaps_that_pillow_alone_does_not_read() -> None:
    rows = bytes((1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0))
    upright = bytes((9, 8, 7, 12, 11, 10, 3, 2, 1, 6, 5, 4))
    assert pixels_of(bmp(rows[:-2], 24)).tobytes() == upright  # without the last padding
    assert decode(bmp(rows[:-3], 24), OPTIONS) is Reason.TRUNCATED
    assert pixels_of(bmp(rows, 24, header=struct.pack("<IIIHH", 16, 2, 2, 1, 24))).tobytes() == upright
    palette = bytes(value for i in range(300) for value in (i & 255, i & 255, 7, 0))
    indices = bytes((0, 1, 0, 0, 2, 255, 0, 0))
    assert pixels_of(bmp(indices, 8, palette=palette, used=300))[:, :, 2].tolist() == [[2, 255], [0, 1]]
    black_on_white = bytes((255, 255, 255, 0, 0, 0, 0, 0))
    assert pixels_of(bmp(bytes((0x40, 0, 0, 0, 0x80, 0, 0, 0)), 1, palette=black_on_white)).tolist() == [
        [[0], [255]],
        [[255], [0]],
    ]
    odd = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + struct.pack(
        "<III", 0x3FF00000, 0xFFC00, 0x3FF
    )
    assert decode(bmp(bytes(16), 32, header=odd), OPTIONS) is Reason.UNSUPPORTED_DEPTH


def test_run_lengths_with_moves() -> None:
    palette = bytes(value for i in range(256) for value in (i, 100, 7, 0))

    def rows(codes: bytes) -> object:
        return pixels_of(bmp(codes, 8, palette=palette, compression=1))[:, :, 2].tolist()

    assert rows(bytes((2, 5, 0, 0, 2, 6, 0, 1))) == [[6, 6], [5, 5]]
    assert rows(bytes((1, 5, 0, 2, 0, 1, 1, 6, 0, 1))) == [[0, 6], [5, 0]]
    assert rows(bytes((0, 2, 1, 1, 1, 6, 0, 1))) == [[0, 6], [0, 0]]
    assert rows(bytes((0, 1))) == [[0, 0], [0, 0]]
    assert decode(bmp(bytes((2, 5, 0, 0)), 8, palette=palette, compression=1), OPTIONS) is Reason.TRUNCATED


def test_a_gif_without_its_trailer() -> None:
    data = saved(to_image(noise(6, 7, 1)), "gif")
    assert pixels_of(data[:-1]).tobytes() == pixels_of(data).tobytes()
    assert decode(data[:-2], OPTIONS) is Reason.TRUNCATED


def test_a_tiff_whose_colour_map_has_eight_bits_is_not_black() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).convert("P")
    image.putpalette(bytes((10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120)) + bytes(756))
    data = saved(image, "tiff")
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]]
    assert pixels_of(data).tolist() == expected
    map = np.zeros((3, 256), "<u2")
    map[:, :4] = np.array(expected).reshape(4, 3).T
    place = data.index((map * 257).tobytes() if (map * 257).tobytes() in data else (map * 256).tobytes())
    assert pixels_of(data[:place] + map.tobytes() + data[place + map.nbytes :]).tolist() == expected


def test_portable_anymaps() -> None:
    assert pixels_of(b"P6#c\n1 1#d\n255\n\1\2\3").tolist() == [[[1, 2, 3]]]
    assert pixels_of(b"P5 4 1 100 " + bytes((0, 10, 30, 100))).ravel().tolist() == [0, 26, 77, 255]
    assert decode(b"P5 1 1 0 \0", OPTIONS) is Reason.CORRUPT
    whole = b"P3 2 1 255 1 2 3 4 5 232\n"
    for end, value in ((len(whole), 232), (len(whole) - 1, 232)):
        assert pixels_of(whole[:end]).ravel()[-1] == value
    for end in (-2, -3, -4):  # 23, 2, and nothing of 232
        assert decode(whole[:end], OPTIONS) is Reason.TRUNCATED
    assert decode(b"P2 2 1 255 1 2", OPTIONS) is Reason.TRUNCATED
    assert pixels_of(b"P2 2 1 9 1 2").ravel().tolist() == [28, 57]
    assert pixels_of(b"P2 2 1 255 1 0").ravel().tolist() == [1, 0]


def tiff(pixels: bytes, **tags: int) -> bytes:
    """2 x 2 of four bytes a pixel; tags by number, as t338=1."""
    entries = {256: 2, 257: 2, 259: 1, 262: 2, 273: 300, 277: 4, 278: 2, 279: len(pixels)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    bits = struct.pack("<HHII", 258, 3, 4, 290)
    directory = (
        directory[: 12 * sum(tag < 258 for tag in entries)] + bits + directory[12 * sum(tag < 258 for tag in entries) :]
    )
    data = b"II*\0" + struct.pack("<IH", 8, len(entries) + 1) + directory + bytes(4)
    return data.ljust(290, b"\0") + struct.pack("<4Hxx", 8, 8, 8, 8) + pixels


def test_a_tiff_whose_colours_are_multiplied_by_alpha_is_not_rounded_twice() -> None:
    values = bytes((1, 2, 3, 3, 100, 50, 0, 101, 7, 7, 7, 255, 0, 0, 0, 0))
    expected = [[[253, 254, 255], [254, 204, 154]], [[7, 7, 7], [255, 255, 255]]]
    assert pixels_of(tiff(values, t338=1)).tolist() == expected


def test_halved_colour_in_plain_planes_is_refused_by_name() -> None:
    entries = {256: 2, 257: 2, 258: 8, 259: 1, 262: 6, 273: 200, 277: 3, 278: 2, 279: 6}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    assert decode(data.ljust(206, b"\0"), OPTIONS) is Reason.FORMAT_NOT_ALLOWED
