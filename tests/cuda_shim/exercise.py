"""The CUDA kernels' source, compiled for the CPU with sanitizers, on one group of cases: exercise.py LIBRARY GROUP.

numpy only, exact allocations: a read or write beyond an array ends the process.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpclean import _kernels
from dpclean.noise.table import table

LIBRARY = ctypes.CDLL(sys.argv[1])
for function in ("noise", "invert", "group_norm", "sum"):
    getattr(LIBRARY, function).restype = ctypes.c_char_p
F32, BF16, F16, I16 = range(4)
NAMES = {F32: "f32", BF16: "bf16", F16: "f16", I16: "i16"}
KEY = bytes(range(32))
ORDERS = [(3, 2, 0), (1, 1, 1)]  # processors, blocks on each, threads backwards


def pretend(processors: int, blocks: int, backwards: int, shared: int = 227 << 10) -> None:
    LIBRARY.pretend(processors, shared, blocks, backwards)


def done(problem: bytes | None) -> None:
    assert problem is None, problem


def at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def exact(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy that ends where its memory ends and begins `offset` bytes after a multiple of 16."""
    whole = np.empty(array.nbytes + offset, np.uint8)  # the sanitizer's allocator: aligned, red zones around it
    assert whole.ctypes.data % 16 == 0
    part = whole[offset:]
    part[:] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return part.view(array.dtype).reshape(array.shape)


def stored(x: np.ndarray, kind: int) -> np.ndarray:
    """float32 as stored elements, rounded to nearest even."""
    if kind == F32:
        return x.astype(np.float32)
    if kind == F16:
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.uint16)
    u = x.astype(np.float32).view(np.uint32)
    rounded = ((u.astype(np.uint64) + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def loaded(x: np.ndarray, kind: int) -> np.ndarray:
    if kind == F32:
        return x.astype(np.float64)
    if kind == F16:
        return x.view(np.float16).astype(np.float64)
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def draw(
    images: np.ndarray, sigma: float, kind: int, planar: bool, *, on_cpu: bool, indices: list[int] | None = None,
    key: bytes = KEY, run: int = 1, test: bool = False, offset: int = 0,
) -> np.ndarray:  # fmt: skip
    count, samples, channels = len(images), images[0].size, images.shape[-1]
    numbers = np.array(range(count) if indices is None else indices, np.int64)
    chosen = table(sigma) if sigma else None
    a = float(np.float32(math.sqrt(0.6) / 255))
    out = exact(np.zeros((count, samples), {F32: np.uint32}.get(kind, np.uint16)), offset)
    images = exact(images, offset)
    if on_cpu:
        job = _kernels.NoiseJob(
            key=key, run=run, test=test, entry=chosen.entry.ctypes.data if chosen else 0,
            low=chosen.low.ctypes.data if chosen else 0, m=chosen.m if chosen else 0, k=chosen.k if chosen else 0,
            images=images.ctypes.data, indices=numbers.ctypes.data, count=count, samples=samples, channels=channels,
            planar=planar, type=NAMES[kind], a=a, out=out.ctypes.data,
        )  # fmt: skip
        _kernels.noise("scalar", 1, job)
        return out
    words = np.frombuffer(key, np.uint32)
    entry, low = (exact(chosen.entry), exact(chosen.low)) if chosen else (None, None)
    done(
        LIBRARY.noise(
            at(words), ctypes.c_uint32(run), ctypes.c_uint32(test), at(entry), at(low),
            ctypes.c_uint32(chosen.m if chosen else 0), ctypes.c_uint32(chosen.k if chosen else 0), at(images),
            at(numbers), ctypes.c_size_t(count), ctypes.c_size_t(samples), ctypes.c_size_t(channels), int(planar),
            kind, ctypes.c_float(a), at(out),
        )
    )  # fmt: skip
    return out


def known_answers() -> None:
    import hashlib

    for answer in json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text())["cases"]:
        shape = answer["shape"]
        i = np.arange(math.prod(shape), dtype=np.int64)
        x = ((i * 37 + answer["image"] * 11) % 256).astype(np.uint8).reshape(1, *shape)
        got = draw(
            x, answer["sigma"], I16, False, on_cpu=False, indices=[answer["index"]], key=bytes.fromhex(answer["key"]),
            run=answer["run"], test=answer["test"],
        )  # fmt: skip
        assert hashlib.sha256(got.astype("<u2").tobytes()).hexdigest() == answer["sha256_noised"], answer


def noise() -> None:
    rng = np.random.default_rng(1)
    shapes = [(5, 7, 9, 3), (2, 16, 16, 3), (3, 4, 4, 3), (3, 7, 4, 1), (1, 1, 1, 3), (2, 32, 33, 1), (40, 3, 5, 3)]
    for shape in shapes:
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        for kind, planar, sigma in itertools.product((F32, BF16, F16, I16), (False, True), (0.0, 0.25, 1.0, 4.0)):
            offset = 0 if shape[0] != 3 else 4
            expected = draw(images, sigma, kind, planar and kind != I16, on_cpu=True)
            for order in ORDERS:
                pretend(*order)
                got = draw(images, sigma, kind, planar and kind != I16, on_cpu=False, offset=offset)
                assert np.array_equal(got, expected), (shape, kind, planar, sigma, order)


def undecided() -> None:
    """The largest table, above what shared memory takes, with many a sample that 32 bits leave undecided: a word has
    only 17 bits beyond its column there, and 144,000 of them are drawn."""
    key = exact(np.frombuffer(KEY, np.uint32))
    m = 15
    entry = (np.arange(1 << m, dtype=np.uint32) % 5 << m | np.arange(1 << m, dtype=np.uint32)[::-1]).astype(np.uint32)
    low = np.random.default_rng(3).integers(0, 1 << 64, 1 << m, dtype=np.uint64)
    images = np.zeros((3000, 4, 4, 3), np.uint8)
    numbers = np.arange(3000, dtype=np.int64)
    outs = [np.zeros((3000, 48), np.uint16) for _ in range(2)]
    job = _kernels.NoiseJob(
        key=KEY, run=1, test=True, entry=entry.ctypes.data, low=low.ctypes.data, m=m, k=100, images=images.ctypes.data,
        indices=numbers.ctypes.data, count=3000, samples=48, channels=3, planar=False, type="i16", a=0.0,
        out=outs[0].ctypes.data,
    )  # fmt: skip
    _kernels.noise("scalar", 1, job)
    done(
        LIBRARY.noise(
            at(key), 1, 1, at(entry), at(low), m, 100, at(images), at(numbers), ctypes.c_size_t(3000),
            ctypes.c_size_t(48), ctypes.c_size_t(3), 0, I16, ctypes.c_float(0), at(outs[1]),
        )
    )  # fmt: skip
    assert np.array_equal(*outs)


def inverse() -> None:
    rng = np.random.default_rng(2)
    shapes = [(2, 3, 3, 16, 4), (3, 3, 3, 5, 7), (2, 1, 1, 8, 8), (2, 1, 3, 4, 6), (2, 3, 6, 4, 4), (1, 1, 1, 1, 1)]
    for count, channels, predicted, height, width in shapes:
        pixels = height * width
        for kinds, planar, offset in itertools.product(
            ((F32, F32), (BF16, BF16), (F16, F16), (F32, BF16)), (False, True), (0, 4)
        ):
            x, e = (rng.normal(size=(count, c, pixels)) * 3 for c in (channels, predicted))
            e[0, 0, 0], e[-1, -1, -1] = math.inf, 1e3
            if count > 2:
                e[1, 0, 3] = math.nan
            arrays, strides = [], []
            for values, kind in ((x, kinds[0]), (e, kinds[1])):
                c = values.shape[1]
                laid = values if planar else values.transpose(0, 2, 1)
                arrays.append(exact(stored(laid.astype(np.float32), kind), offset))
                strides.append((c * pixels, pixels, 1) if planar else (c * pixels, 1, c))
            for reads in (True, False):
                outs, flags = [], []
                for on_cpu in (True, False):
                    out, finite = exact(np.full((count, pixels, channels), 99, np.uint8)), np.full(count, 7, np.uint8)
                    if on_cpu:
                        views = [
                            _kernels.View(v.ctypes.data, NAMES[k], c, s)
                            for v, k, c, s in zip(arrays, kinds, (channels, predicted), strides, strict=True)
                        ]
                        job = _kernels.InverseJob(
                            p=150.0, q=-70.0, reads_input=reads, input=views[0], prediction=views[1],
                            channels=channels, pixels=pixels, out=out.ctypes.data,
                        )  # fmt: skip
                        _kernels.invert("scalar", 1, job, count, finite.ctypes.data)
                    else:
                        flat = np.array([*strides[0], *strides[1]], np.uint64)
                        done(
                            LIBRARY.invert(
                                ctypes.c_float(150.0), ctypes.c_float(-70.0), int(reads), at(arrays[0]), kinds[0],
                                at(arrays[1]), kinds[1], ctypes.c_size_t(predicted), at(flat), ctypes.c_size_t(count),
                                ctypes.c_size_t(channels), ctypes.c_size_t(pixels), at(out), at(finite),
                            )
                        )  # fmt: skip
                    outs.append(out)
                    flags.append(finite)
                assert np.array_equal(*outs) and np.array_equal(*flags), (count, channels, predicted, kinds, planar)


def large(size: int) -> np.ndarray:
    """Zeros that take memory only where they are touched."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named from Python 3.13 on
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve), np.uint8)


def huge() -> None:
    """Counts beyond 2^32: the last block of threads alone must get to the last elements, and to no others."""
    pretend(1 << 28, 7, 0)
    LIBRARY.run_the_last_block_only(1)
    count, height, width = 40, 1 << 15, 21760  # 40 images of 2.1e9 samples: 5.3e9 ChaCha20 blocks
    samples = height * width * 3
    try:
        images, levels, finite = large(count * samples), large(2 * count * samples), np.zeros(count, np.uint8)
    except OSError as error:
        sys.exit(f"skip: 340 GB of addresses cannot be had: {error}")
    key, numbers, chosen = exact(np.frombuffer(KEY, np.uint32)), np.arange(count, dtype=np.int64), table(0.25)
    images[-64:] = np.arange(64, dtype=np.uint8)
    done(
        LIBRARY.noise(
            at(key), 1, 0, at(chosen.entry), at(chosen.low), chosen.m, chosen.k, at(images), at(numbers),
            ctypes.c_size_t(count), ctypes.c_size_t(samples), ctypes.c_size_t(3), 0, I16, ctypes.c_float(0), at(levels),
        )
    )  # fmt: skip
    end = np.zeros(16, np.int16)
    for sample in range(16):  # from ChaCha20 itself
        block, word = divmod(samples - 16 + sample, 16)
        u = _kernels.chacha20(KEY, block, 1, count - 1, 0)[word]
        own, entry = u >> 32 - chosen.m, int(chosen.entry[u >> 32 - chosen.m])
        column = own if (u << chosen.m & 0xFFFFFFFF) < entry else entry & (1 << chosen.m) - 1
        end[sample] = 48 + sample + column - chosen.k
    assert np.array_equal(levels[-32:].view(np.int16), end)
    # what was written reaches back as far as the last block's threads, and not to the whole
    assert levels[-192 * 32 :].any() and not levels[-(1 << 20) : -192 * 32].any()

    pixels_each, many = 1 << 34, 3  # 5.2e10 values, 6.4e9 threads with eight each
    prediction, out = large(many * pixels_each * 2), large(many * pixels_each)
    prediction[-2:] = np.array([0x3F80], np.uint16).view(np.uint8)  # 1 as bfloat16
    flat = np.array([0, 1, 1, pixels_each, 1, 1], np.uint64)
    LIBRARY.pretend(1, 227 << 10, 1, 0)
    finite = np.zeros(many, np.uint8)
    done(
        LIBRARY.invert(
            ctypes.c_float(0), ctypes.c_float(100.0), 0, None, BF16, at(prediction), BF16, ctypes.c_size_t(1), at(flat),
            ctypes.c_size_t(many), ctypes.c_size_t(1), ctypes.c_size_t(pixels_each), at(out), at(finite),
        )
    )  # fmt: skip
    assert out[-1] == 228 and out[-2] == 128 and finite.all()


def normalized(
    x: np.ndarray, kind: int, weight: np.ndarray, bias: np.ndarray, added: np.ndarray | None, groups: int, silu: bool
) -> np.ndarray:
    count, pixels, channels = x.shape
    out = exact(np.zeros_like(x))
    done(
        LIBRARY.group_norm(
            at(x), at(out), kind, at(weight), at(bias), at(added), ctypes.c_size_t(count), ctypes.c_size_t(pixels),
            ctypes.c_size_t(channels), ctypes.c_size_t(groups), ctypes.c_double(1e-5), int(silu),
        )
    )  # fmt: skip
    return out


def group_norm() -> None:
    rng = np.random.default_rng(4)
    cases = [(2, 64, 32, 16), (2, 100, 48, 6), (1, 1030, 64, 16), (3, 16, 13, 13), (2, 35, 30, 3), (1, 2600, 32, 4),
             (2, 1, 64, 8), (1, 4, 2048, 8), (1, 3, 510, 2), (1, 5, 256, 1)]  # fmt: skip
    for (count, pixels, channels, groups), kind in itertools.product(cases, (F32, BF16, F16)):
        for shared, silu, add in [(227 << 10, True, False), (64 << 10, False, True)]:
            x = exact(stored((rng.normal(size=(count, pixels, channels)) * 2 + 3).astype(np.float32), kind))
            weight, bias = (exact(rng.normal(size=channels).astype(np.float32)) for _ in range(2))
            added = exact(stored(rng.normal(size=channels).astype(np.float32), kind)) if add else None
            value = loaded(x, kind) + (0 if added is None else loaded(added, kind))
            grouped = value.reshape(count, pixels, groups, -1)
            mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
            y = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(value.shape) * weight + bias
            expected = y / (1 + np.exp(-y)) if silu else y
            pretend(3, 2, 0, shared)
            got = normalized(x, kind, weight, bias, added, groups, silu)
            error = np.abs(loaded(got, kind) - expected) / (np.abs(expected) + 1)
            tolerance = {F32: 3e-5, BF16: 4.5e-3, F16: 6e-4}[kind]
            assert error.max() <= tolerance, (pixels, channels, groups, kind, error.max())
            pretend(1, 1, 1, shared)
            assert np.array_equal(normalized(x, kind, weight, bias, added, groups, silu), got)
            one = exact(x[-1:])
            assert np.array_equal(normalized(one, kind, weight, bias, added, groups, silu), got[-1:])


def group_norm_rest() -> None:
    """A large mean, a NaN, SiLU from end to end, and a group too wide."""
    pretend(3, 2, 0)
    rng = np.random.default_rng(5)
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    for pixels in (256, 3000):
        x = exact((rng.normal(size=(2, pixels, 32)) * 2 + 1003).astype(np.float32))
        grouped = x.astype(np.float64).reshape(2, pixels, 4, 8)
        mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
        expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        assert np.abs(normalized(x, F32, ones, zeros, None, 4, False) - expected).max() < 5e-4
        x[0, pixels // 2, 9] = math.nan
        got = normalized(x, F32, ones, zeros, None, 4, True)
        assert np.isnan(got[0, :, 8:16]).all() and not np.isnan(got[0, :, :8]).any() and not np.isnan(got[1]).any()
    bias = exact(np.concatenate([[-3e4, -90.0, 90.0, 3e4], np.linspace(-20, 20, 4000)]).astype(np.float32))
    got = normalized(np.ones((1, 1, len(bias)), np.float32), F32, np.zeros_like(bias), bias, None, len(bias), True)
    with np.errstate(over="ignore"):
        expected = bias / (1 + np.exp(-bias.astype(np.float64)))
    assert np.allclose(got[0, 0], expected, rtol=1e-5, atol=1e-30)
    wide = np.ones((1, 1, 514), np.float32)
    refused = LIBRARY.group_norm(
        at(wide), at(wide), F32, at(wide), at(wide), None, ctypes.c_size_t(1), ctypes.c_size_t(1),
        ctypes.c_size_t(514), ctypes.c_size_t(1), ctypes.c_double(1e-5), 1,
    )  # fmt: skip
    assert refused == b"a group has more than 256 channels"


def sums() -> None:
    rng = np.random.default_rng(6)
    for (pixels, channels), kind, offset in itertools.product(
        [(50, 32), (7, 5), (1, 8), (900, 24)], (F32, BF16, F16), (0, 4)
    ):
        shape = (pixels, channels)
        x, other = (exact(stored(rng.normal(size=shape).astype(np.float32), kind), offset) for _ in range(2))
        biases = [exact(stored(rng.normal(size=channels).astype(np.float32), kind)) for _ in range(2)]
        for first, second in [(None, None), (biases[0], None), (biases[0], biases[1])]:
            part = np.zeros(channels, np.float32)
            for b in (first, second):
                part = part if b is None else part + loaded(b, kind).astype(np.float32)
            expected = stored(loaded(x, kind).astype(np.float32) + loaded(other, kind).astype(np.float32) + part, kind)
            out = exact(np.zeros_like(x), offset)
            done(
                LIBRARY.sum(
                    at(x), at(other), at(first), at(second), at(out), kind, ctypes.c_size_t(x.size),
                    ctypes.c_size_t(channels),
                )
            )  # fmt: skip
            assert np.array_equal(out, expected)
            inside = exact(x, offset)
            done(
                LIBRARY.sum(
                    at(inside), at(other), at(first), at(second), at(inside), kind, ctypes.c_size_t(x.size),
                    ctypes.c_size_t(channels),
                )
            )  # fmt: skip
            assert np.array_equal(inside, expected)


GROUPS: dict[str, Callable[[], Any]] = {
    f.__name__: f for f in (known_answers, noise, undecided, inverse, huge, group_norm, group_norm_rest, sums)
}

if __name__ == "__main__":
    GROUPS[sys.argv[2]]()
