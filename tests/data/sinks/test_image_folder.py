"""Image files out: formats, names, interruption, errors."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpclean.data.decoding.decode import Decoded, decode
from dpclean.data.decoding.encode import encode
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.errors import SetupError
from tests.data.pictures import FORMATS, LOSSLESS, noise, saved, to_image, write, write_png


def copy(raw: Path, out: Path, options: DataOptions) -> list[tuple[int, str]]:
    """RAW to OUT as it is."""
    out.mkdir(exist_ok=True)
    source = open_source(raw, options)
    with WorkerPool(2, options) as pool:
        sink = source.make_sink(out, pool)
        for sample in source.samples(source.entries(), pool):
            if sample.pixels is not None:
                sink.put(sample, sample.pixels)
        done = [(index, target) for index, target, _ in sink.sync()]
        sink.finish()
        assert sink.sync() == []
    return done


def decoded(path: Path, options: DataOptions | None = None) -> Decoded:
    result = decode(path.read_bytes(), options or DataOptions())
    assert isinstance(result, Decoded)
    return result


WITH_ALPHA = [(format, format in ("png", "webp", "tiff")) for format in LOSSLESS]


@pytest.mark.parametrize(("format", "with_alpha"), sorted({*WITH_ALPHA, *((format, False) for format in LOSSLESS)}))
@pytest.mark.parametrize("channels", [1, 3])
def test_encoding_loses_nothing(format: str, with_alpha: bool, channels: int) -> None:
    pixels, alpha = noise(7, 9, channels), noise(7, 9, 1, seed=1)[:, :, 0] if with_alpha else None
    result = decode(encode(pixels, alpha, format), DataOptions(alpha_policy="keep"))
    assert isinstance(result, Decoded) and result.format == format
    # WebP has no grey: three equal channels come back
    np.testing.assert_array_equal(result.pixels, np.broadcast_to(pixels, result.pixels.shape))
    assert result.pixels.shape[2] == (3 if format == "webp" else channels)
    if alpha is not None:
        np.testing.assert_array_equal(result.alpha, alpha)


def test_png_out(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/x.png", "a/y.JPG", "b/c/z", "b/é \n.tif")):
        write_png(tmp_path / "raw" / name, seed)
    done = copy(tmp_path / "raw", tmp_path / "out", DataOptions())
    assert done == [(0, "a/x.png"), (1, "a/y.png"), (2, "b/c/z.png"), (3, "b/é \n.png")]
    for seed, name in done:
        np.testing.assert_array_equal(decoded(tmp_path / "out" / name).pixels, noise(seed=seed))
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "out")) == 4


def test_same_keeps_what_loses_nothing_whatever_the_name_says(tmp_path: Path) -> None:
    for format in FORMATS:
        write(tmp_path / "raw" / f"{format}.jpg", saved(to_image(noise()), format))
    done = dict(copy(tmp_path / "raw", tmp_path / "out", DataOptions(output_format="same")))
    assert sorted(done.values()) == ["bmp.bmp", "gif.png", "jpeg.png", "png.png", "ppm.ppm", "tiff.tiff", "webp.webp"]
    for name in done.values():
        assert decoded(tmp_path / "out" / name).format == {"jpg": "png"}.get(name.split(".")[1], name.split(".")[1])


def test_alpha_is_kept_where_asked_for(tmp_path: Path) -> None:
    pixels, alpha = noise(), noise(channels=1, seed=1)[:, :, 0]
    write(tmp_path / "raw" / "x.png", saved(Image.fromarray(np.dstack([pixels, alpha])), "png"))
    options = DataOptions(alpha_policy="keep", output_format="webp")
    assert copy(tmp_path / "raw", tmp_path / "out", options) == [(0, "x.webp")]
    result = decoded(tmp_path / "out" / "x.webp", options)
    np.testing.assert_array_equal(result.pixels, pixels)
    np.testing.assert_array_equal(result.alpha, alpha)


def test_metadata_never_reaches_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret"
    write(tmp_path / "raw" / "x.jpg", saved(to_image(noise()), "jpeg", exif=exif, comment=b"secret"))
    copy(tmp_path / "raw", tmp_path / "out", DataOptions())
    assert b"secret" not in (tmp_path / "out" / "x.png").read_bytes()


def test_what_an_interrupted_process_left_is_replaced_not_written_through(tmp_path: Path) -> None:
    """The file may be a hard link that another OUT shares."""
    write_png(tmp_path / "raw" / "x.png")
    precious = write(tmp_path / "precious", b"precious")
    (tmp_path / "out").mkdir()
    os.link(precious, tmp_path / "out" / "x.png")
    copy(tmp_path / "raw", tmp_path / "out", DataOptions())
    assert precious.read_bytes() == b"precious"
    np.testing.assert_array_equal(decoded(tmp_path / "out" / "x.png").pixels, noise())


def test_pixels_may_be_changed_after_put(tmp_path: Path) -> None:
    write_png(tmp_path / "raw" / "x.png")
    (tmp_path / "out").mkdir()
    source = open_source(tmp_path / "raw", DataOptions())
    with WorkerPool(1, DataOptions()) as pool:
        sink = source.make_sink(tmp_path / "out", pool)
        for sample in source.samples(source.entries(), pool):
            pixels = noise(seed=5)
            sink.put(sample, pixels)
            pixels[:] = 0
        sink.sync()
    np.testing.assert_array_equal(decoded(tmp_path / "out" / "x.png").pixels, noise(seed=5))


def test_out_deleted_while_writing(tmp_path: Path) -> None:
    write_png(tmp_path / "raw" / "x.png")
    (tmp_path / "out").mkdir()
    source = open_source(tmp_path / "raw", DataOptions())
    with WorkerPool(1, DataOptions()) as pool:
        sink = source.make_sink(tmp_path / "out", pool)
        (sample,) = source.samples(source.entries(), pool)
        (tmp_path / "out").rmdir()
        sink.put(sample, noise())
        with pytest.raises(SetupError, match=r"out/x\.png cannot be written: no such file"):
            sink.sync()


def test_a_file_size_limit_is_named(tmp_path: Path) -> None:
    """The whole program under a limit of 1 KiB a file: its workers meet it."""
    for seed in range(3):
        write_png(tmp_path / "raw" / f"{seed}.png", seed)
    write(tmp_path / "raw" / "2.png", saved(to_image(noise(200, 200)), "png"))
    (tmp_path / "out").mkdir()
    program = f"""
from pathlib import Path
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.data.decoding.pool import WorkerPool
from dpclean.errors import SetupError
root, options = Path({str(tmp_path)!r}), DataOptions()
source = open_source(root / "raw", options)
with WorkerPool(1, options) as pool:
    sink = source.make_sink(root / "out", pool)
    for sample in source.samples(source.entries(), pool):
        sink.put(sample, sample.pixels)
    try:
        sink.sync()
    except SetupError as error:
        print(error.message)
"""
    limited = f"ulimit -f 1; exec {shlex.quote(sys.executable)} -B -c {shlex.quote(program)}"
    said = subprocess.check_output(["bash", "-c", limited], text=True)
    assert said == f"{tmp_path}/out/2.png cannot be written: file too large\n"
