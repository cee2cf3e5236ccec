"""Every kernel reproduces every answer of vectors/noise.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dpclean import _kernels
from dpclean.noise import add_noise, to_model_input, to_uint8
from dpclean.noise.fused import backward_constants, forward_constant
from dpclean.noise.table import table
from tests.noise.known import VECTORS, address, known_image, sha256

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def stored_bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32).numpy()


def test_chacha20_reproduces_rfc_8439() -> None:
    """Section 2.3.2: nonce 00:00:00:09:00:00:00:4a:00:00:00:00, counter 1."""
    words = _kernels.chacha20(bytes(range(32)), 1, 0x09000000, 0x4A000000, 0)
    stream = np.array(words, dtype="<u4").tobytes()
    assert stream.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


@pytest.mark.parametrize("answer", VECTORS["chacha20"])
def test_blocks_of_an_image(answer: dict[str, Any]) -> None:
    index, high = answer["index"], answer["index"] >> 32 | answer["test"] << 31
    for counter, block in zip(answer["counters"], answer["blocks"], strict=True):
        assert _kernels.chacha20(bytes.fromhex(answer["key"]), counter, answer["run"], index % 2**32, high) == block


@pytest.mark.parametrize("answer", VECTORS["tables"], ids=lambda a: str(a["sigma"]))
def test_table(answer: dict[str, Any]) -> None:
    made = table(answer["sigma"])
    assert (made.m, made.k) == (answer["m"], answer["K"])
    assert made.entry[:8].tolist() == answer["first_entry"]
    assert [str(low) for low in made.low[:8]] == answer["first_low"]
    assert (sha256(made.entry), sha256(made.low)) == (answer["sha256_entry"], answer["sha256_low"])
    assert answer["tv"] <= made.total_variation == answer["tv_bound"]


@pytest.mark.parametrize("container", ["numpy", "torch"])
@pytest.mark.parametrize("answer", VECTORS["cases"], ids=lambda a: f"{a['sigma']}-{a['index']}-{a['shape']}")
def test_noise(answer: dict[str, Any], container: str, kernel: str) -> None:
    x = known_image(answer["image"], answer["shape"])
    batch = x[None] if container == "numpy" else torch.from_numpy(x[None])
    noised = np.asarray(add_noise(batch, answer["sigma"], **address(answer)))[0]
    z = noised - x.astype(np.int16)
    assert z.ravel()[:64].tolist() == answer["first"]
    assert int(z.sum(dtype=np.int64)) == answer["sum"]
    assert int((z.astype(np.int64) ** 2).sum()) == answer["sum_of_squares"]
    assert (sha256(z), sha256(noised)) == (answer["sha256_z"], answer["sha256_noised"])


def test_both_outcomes_of_a_refined_draw_are_among_the_answers() -> None:
    outcomes = {(a["sigma"], a["refined_effective"]["kept"]) for a in VECTORS["cases"] if "refined_effective" in a}
    assert outcomes == {(sigma, kept) for sigma in (0.25, 1.0, 4.0) for kept in (False, True)}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("answer", VECTORS["fused"], ids=lambda a: f"{a['dtype']}-{a['abar']}-{a['shape']}")
def test_fused_forms(answer: dict[str, Any], layout: str, kernel: str) -> None:
    dtype, stand_in, where = DTYPES[answer["dtype"]], answer["eps"], address(answer)
    assert forward_constant(answer["abar"]).hex() == answer["a"]
    assert [c.hex() for c in backward_constants(answer["abar"], "epsilon")] == [answer["p"], answer["q"]]

    x = torch.from_numpy(known_image(answer["image"], answer["shape"]))[None]
    sample = to_model_input(
        x, answer["sigma"], answer["abar"], **where, dtype=dtype, channels_last=layout == "channels_last"
    )
    assert sample.is_contiguous(memory_format=FORMATS[layout])
    assert sha256(stored_bits(sample[0].permute(1, 2, 0))) == answer["sha256_hwc"]
    assert sha256(stored_bits(sample[0])) == answer["sha256_chw"]

    other = known_image(stand_in["image"], answer["shape"])[None]
    levels = add_noise(other, answer["sigma"], **{**where, "indices": [stand_in["index"]]}).astype(np.float32)
    eps = torch.from_numpy(levels * np.float32(stand_in["scale"]) + np.float32(stand_in["offset"])).to(dtype)
    assert sha256(stored_bits(eps[0])) == answer["sha256_eps_hwc"]
    eps = eps.permute(0, 3, 1, 2).contiguous(memory_format=FORMATS[layout])
    pixels, finite = to_uint8(sample, eps, answer["abar"], prediction_type="epsilon")
    assert finite.tolist() == [True]
    assert sha256(pixels[0].numpy()) == answer["sha256_uint8_hwc"]
