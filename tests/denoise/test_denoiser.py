"""Images through the denoiser: noise unharmed, sizes kept, nobody's neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpclean.denoise.denoiser import Denoised, Denoiser, _Draw
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.noise import add_noise
from tests.networks import PATCHES, make_denoiser, make_transparent

KEY = bytes(range(32))
ODD_SHAPES = [
    (32, 32, 3),
    (1, 1, 3),
    (1, 97, 3),
    (31, 2, 1),
    (28, 28, 1),
    (64, 64, 3),
    (33, 129, 3),
    (700, 40, 3),
    (530, 600, 1),
]


def image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def run(denoiser: Denoiser, images: dict[int, np.ndarray], **address: Any) -> dict[int, Denoised]:
    return {r.index: r for r in denoiser.denoise(images.items(), key=KEY, **address)}


def load(folder: Path, sigma: float = 0.25, **options: Any) -> Denoiser:
    return Denoiser(find_denoiser(str(folder)), sigma, **options)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_each_prediction_type_means_what_its_formula_says(tmp_path: Path, prediction_type: str) -> None:
    # a network that predicts zero everywhere: x0 is x_t / sqrt(abar), sqrt(abar) x_t, or mid-grey
    denoiser = load(make_transparent(tmp_path / "d", prediction_type=prediction_type), dtype="fp32")
    clean = image((32, 32, 3))
    noised = add_noise(clean[None], 0.25, key=KEY, run=0, indices=np.array([5])).astype(np.float64)[0]
    abar = denoiser.level.alphas_cumprod
    scaled = {"epsilon": noised / 127.5 - 1, "v_prediction": abar * (noised / 127.5 - 1), "sample": 0 * noised}
    expected = ((scaled[prediction_type].clip(-1, 1) + 1) * 127.5).round()
    assert np.abs(run(denoiser, {5: clean})[5].pixels - expected).max() <= (
        1 if prediction_type == "v_prediction" else 0
    )


@pytest.mark.parametrize("config", [{}, PATCHES], ids=["pixels", "patches"])
def test_noise_reaches_images_of_any_size_once_and_unharmed(tmp_path: Path, config: dict[str, int]) -> None:
    denoiser = load(make_transparent(tmp_path / "d", **config), dtype="fp32")
    images = {100 + 7 * i: image(shape, i) for i, shape in enumerate(ODD_SHAPES)}
    results = run(denoiser, images, run=3, test=True)
    assert results.keys() == images.keys()
    for index, clean in images.items():
        noised = add_noise(clean[None], 0.25, key=KEY, run=3, indices=np.array([index]), test=True)[0]
        np.testing.assert_array_equal(results[index].pixels, noised.clip(0, 255), err_msg=str(clean.shape))


@pytest.mark.parametrize("config", [{}, PATCHES], ids=["pixels", "patches"])
def test_no_image_changes_another_ones_output_by_a_bit(tmp_path: Path, config: dict[str, int]) -> None:
    denoiser = load(make_denoiser(tmp_path / "d", **config), batch_pixels=4 * 1024)
    shapes = [(32, 32, 3)] * 5 + [(28, 28, 1), (28, 30, 1), (33, 129, 3), (140, 40, 3), (140, 40, 3)]
    images = {i: image(shape, i) for i, shape in enumerate(shapes)}
    others = {i: image(shape, 1000 + i) for i, shape in enumerate(shapes)}
    for kept in (0, 1):  # every other image is another one: of the same sizes, in the same order
        mixed = {i: (images if i % 2 == kept else others)[i] for i in images}
        before, after = run(denoiser, images), run(denoiser, mixed)
        for index in images:
            assert np.array_equal(before[index].pixels, after[index].pixels) == (index % 2 == kept)


def test_few_of_one_size_share_a_batch_and_none_is_lost(tmp_path: Path) -> None:
    denoiser = load(make_transparent(tmp_path / "d"), dtype="fp32")
    sizes = [(24 + i, 24 + 3 * i % 40, 3 if i % 3 else 1) for i in range(40)]
    images = {i: image(shape, i) for i, shape in enumerate(sizes)}
    done: list[float] = []
    results = {r.index: r for r in denoiser.denoise(images.items(), key=KEY, on_batch=done.append)}
    assert len(done) < 20 and sum(done) == sum(h * w for h, w, _ in sizes)
    for index, clean in images.items():
        noised = add_noise(clean[None], 0.25, key=KEY, run=0, indices=np.array([index]))[0]
        np.testing.assert_array_equal(results[index].pixels, noised.clip(0, 255), err_msg=str(clean.shape))


def test_every_batch_is_told_and_can_stop_the_work(tmp_path: Path) -> None:
    denoiser = load(make_transparent(tmp_path / "d"), dtype="fp32", batch_pixels=128 * 128)
    images = {0: image((300, 400, 3)), 1: image((32, 32, 3)), 2: image((28, 30, 1))}
    done: list[float] = []
    assert len(list(denoiser.denoise(images.items(), key=KEY, on_batch=done.append))) == 3
    assert len(done) > 6 and sum(done) == pytest.approx(300 * 400 + 32 * 32 + 28 * 30)

    class Enough(Exception):
        pass

    def stop(pixels: float) -> None:
        done.append(pixels)
        if len(done) == 3:
            raise Enough

    done.clear()
    with pytest.raises(Enough):  # in the middle of the first image
        list(denoiser.denoise(images.items(), key=KEY, on_batch=stop))
    assert sum(done) < 300 * 400


def test_threads_change_no_more_than_a_rounding(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d", block_out_channels=(32, 64))
    images = {i: image(shape, i) for i, shape in enumerate([*ODD_SHAPES, *[(32, 32, 3)] * 6])}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(run(load(folder, dtype="fp32"), images))
    finally:
        torch.set_num_threads(before)
    for index in images:
        np.testing.assert_allclose(*(results[index].pixels.astype(int) for results in found), rtol=0, atol=1)


def test_half_precision_stays_close_to_float32(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    images = {i: image(shape, i) for i, shape in enumerate(ODD_SHAPES)}
    half, full = (run(load(folder, dtype=dtype), images) for dtype in ("bf16", "fp32"))
    differences = np.concatenate([(half[i].pixels.astype(int) - full[i].pixels).ravel() for i in images])
    assert np.abs(differences).mean() < 2.0


@pytest.mark.parametrize("config", [{}, PATCHES], ids=["pixels", "patches"])
def test_grey_goes_in_three_times_with_one_noise(tmp_path: Path, config: dict[str, int]) -> None:
    denoiser = load(make_denoiser(tmp_path / "d", **config), dtype="fp32")
    grey = image((28, 28, 1))
    noised = denoiser._noised(torch.from_numpy(grey)[None], [3], _Draw(KEY, 0, False), "fp32")
    batch = noised.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    prediction = denoiser._predict(batch).mean(1, keepdim=True)
    expected, _ = denoiser._finish(noised, prediction)
    difference = run(denoiser, {3: grey})[3].pixels.astype(int) - expected[0].numpy()
    assert np.abs(difference).max() <= 1


def test_what_half_precision_cannot_hold_is_done_again_in_float32(tmp_path: Path) -> None:
    def overflow(model: Any) -> None:
        # 1e5 does not fit into float16; the next layer normalises it away
        model.conv_in.weight.mul_(1e7)

    folder = make_denoiser(tmp_path / "d", prepare=overflow)
    clean = image((32, 32, 3))
    half, full = (run(load(folder, dtype=dtype), {1: clean})[1] for dtype in ("fp16", "fp32"))
    assert half.retried and half.finite and not full.retried
    np.testing.assert_array_equal(half.pixels, full.pixels)


def test_what_float32_cannot_hold_either_is_told(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d", prepare=lambda model: model.conv_out.bias.fill_(3e38).mul_(2))
    with pytest.raises(SetupError):  # an infinite weight is found when loading
        load(folder)

    def explode(model: Any) -> None:
        model.conv_out.weight.fill_(3e38)
        model.conv_out.bias.fill_(3e38)

    result = run(load(make_denoiser(tmp_path / "e", prepare=explode), dtype="bf16"), {1: image((32, 32, 3))})[1]
    assert not result.finite


@pytest.mark.parametrize(("sample_size", "tile"), [(32, 128), (200, 200), ([64, 320], 320), (None, 128)])
def test_tiles_are_of_the_size_that_the_network_was_fitted_on(tmp_path: Path, sample_size: Any, tile: int) -> None:
    shapes = load(make_transparent(tmp_path / "d", sample_size=sample_size), dtype="fp32").shapes
    assert shapes.tile == tile and max(shapes.lengths(5 * tile)) <= tile


def test_colour_is_refused_by_a_grey_denoiser_and_grey_is_not(tmp_path: Path) -> None:
    denoiser = load(make_transparent(tmp_path / "d", in_channels=1, out_channels=1), dtype="fp32")
    assert run(denoiser, {0: image((28, 28, 1))})[0].pixels.shape == (28, 28, 1)
    with pytest.raises(InputError, match="3 channels"):
        run(denoiser, {0: image((28, 28, 3))})
    patched = load(make_transparent(tmp_path / "p", in_channels=4, out_channels=4, patch_size=2), dtype="fp32")
    np.testing.assert_array_equal(
        run(patched, {0: image((28, 28, 1))})[0].pixels, run(denoiser, {0: image((28, 28, 1))})[0].pixels
    )
    with pytest.raises(InputError, match="3 channels"):
        run(patched, {0: image((28, 28, 3))})


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"device": "cuda:99"}, SetupError),
        ({"device": "abacus"}, UsageError),
        ({"dtype": "int8"}, UsageError),
        ({"method": "ddim"}, UsageError),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, option: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        load(make_denoiser(tmp_path / "d"), **option)


@pytest.mark.parametrize("method", ["one-step", "ddim:2", "sde:2"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sigma_zero_gives_the_image_back_whatever_the_network_says(tmp_path: Path, method: str, device: str) -> None:
    def spoil(model: Any) -> None:
        torch.nn.init.constant_(model.conv_out.weight, 1e38)  # what comes out is not finite

    folder = make_denoiser(tmp_path / "d", prepare=spoil)
    images = {0: np.arange(256, dtype=np.uint8).repeat(12).reshape(32, 32, 3), 3: image((150, 40, 3))}
    for dtype in ("fp32", "bf16"):
        results = run(load(folder, 0.0, dtype=dtype, device=device, method=method), images)
        assert not any(result.retried for result in results.values())
        for index, clean in images.items():
            np.testing.assert_array_equal(results[index].pixels, clean)


def test_images_of_several_runs_share_batches_of_one_shape(tmp_path: Path) -> None:
    """Each has the noise of its run, and the same bits alone as among others: whole images, padded ones and tiles."""
    denoiser = load(make_denoiser(tmp_path / "d"), dtype="fp32", batch_pixels=4 * 32 * 32)
    images = [image((32, 32, 3)), image((30, 31, 1), 1), image((140, 32, 3), 2)]

    def results(runs: list[int], places: list[int]) -> dict[tuple[int, int], bytes]:
        stream = ((run, place, images[place]) for run in runs for place in places)
        return {(r.run, r.index): r.pixels.tobytes() for r in denoiser.denoise_runs(stream, key=KEY)}

    shapes: dict[tuple[int, ...], set[int]] = {}
    seen = denoiser._network.register_forward_pre_hook(
        lambda _, given: shapes.setdefault(tuple(given[0].shape[1:]), set()).add(len(given[0]))
    )
    together = results([1, 2, 3], [0, 1, 2])
    assert len(set(together.values())) == 9
    assert results([2], [2, 0, 1]).items() <= together.items()
    assert all(results([3], [place]).items() <= together.items() for place in (0, 1, 2))
    seen.remove()
    assert all(len(batches) == 1 for batches in shapes.values()) and len(shapes) > 1
    single = {index: r.pixels for index, r in run(denoiser, dict(enumerate(images)), run=2).items()}
    for place, pixels in single.items():
        found = np.frombuffer(together[2, place], np.uint8).reshape(pixels.shape)
        assert np.abs(found.astype(int) - pixels).max() <= 1
