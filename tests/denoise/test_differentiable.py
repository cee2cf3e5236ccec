"""The denoiser under gradients: the same function, and its true derivative."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpclean import Sanitizer
from dpclean.denoise import differentiable
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.differentiable import DifferentiableDenoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import InputError
from tests.networks import PATCHES, make_denoiser

KEY = bytes(range(32))
METHODS = ("one-step", "ddim:2", "sde:3")


def made(folder: Path, method: str, sigma: float = 0.1, **config: Any) -> Denoiser:
    def noisy(model: Any) -> None:
        model.conv_out.weight.mul_(4)

    path = folder if folder.is_dir() else make_denoiser(folder, prepare=noisy, **config)
    return Denoiser(find_denoiser(str(path)), sigma, dtype="fp32", device="cpu", method=method)


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (1, 1, 28, 41), (2, 3, 150, 200)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_it_does_what_the_denoiser_does(tmp_path: Path, method: str, shape: tuple[int, ...]) -> None:
    denoiser = made(tmp_path / "d", method)
    given, indices = images(*shape), [4 + i for i in range(shape[0])]
    pairs = zip(indices, given.permute(0, 2, 3, 1), strict=True)
    expected = {result.index: result.pixels for result in denoiser.denoise(pairs, key=KEY, run=2)}
    found = DifferentiableDenoiser(denoiser)(given / 255, key=KEY, run=2, indices=indices)
    assert found.shape == given.shape
    for index, image in zip(indices, found, strict=True):
        levels = (image * 255).permute(1, 2, 0).detach().numpy()
        assert np.abs(levels - levels.round()).max() < 1e-3
        away = np.abs(levels.round() - expected[index])
        assert away.max() <= 1 and (away > 0).mean() < 1e-3  # float32 in another order of operations


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 140, 30)], ids=str)
def test_its_gradient_is_that_of_finite_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, method: str, shape: tuple[int, ...]
) -> None:
    config = PATCHES if method == "sde:3" else {}
    denoiser = made(tmp_path / "d", method, prediction_type=kind, **config)
    list(denoiser.denoise([(0, images(*shape)[0].permute(1, 2, 0))], key=KEY))  # what it keeps must not be in the way
    # rounding, which has no derivative, is left out of both; pixels are moved by less than what would clip them
    monkeypatch.setattr(differentiable, "_rounded", lambda levels: levels)
    draw = torch.Generator().manual_seed(1)
    clean = (images(*shape).double() * 0.9 + 10) / 255
    direction, weight = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))

    def value(x: torch.Tensor) -> torch.Tensor:
        return (
            DifferentiableDenoiser(denoiser, torch.float64)(x, key=KEY, run=0, indices=range(len(x))) * weight
        ).sum()

    x = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-8  # small, as derivatives jump where x0 is clamped
    with torch.no_grad():
        expected = float((value(clean + step * direction) - value(clean - step * direction)) / (2 * step))
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert gradient.abs().max() > 0


def test_rounding_passes_gradients_on_but_where_it_clips() -> None:
    levels = torch.tensor([-3.0, 0.2, 100.6, 254.7, 300.0], requires_grad=True)
    rounded = differentiable._rounded(levels)
    assert rounded.tolist() == [0, 0, 101, 255, 255]
    rounded.sum().backward()
    assert levels.grad is not None and levels.grad.tolist() == [0, 1, 1, 1, 0]


def test_at_sigma_zero_images_and_gradients_pass_as_they_are(tmp_path: Path) -> None:
    whole = Denoiser(
        find_denoiser(str(make_denoiser(tmp_path / "d", prediction_type="v_prediction"))), 0.0, dtype="fp32"
    )
    grey = torch.arange(1, 255).repeat(13)[: 3 * 32 * 32].reshape(1, 3, 32, 32) / 255
    x = grey.clone().requires_grad_()
    out = DifferentiableDenoiser(whole)(x, key=KEY, run=1, indices=[0])
    assert torch.equal((out * 255).round(), (grey * 255).round())
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


def kept(denoiser: DifferentiableDenoiser, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """(bytes that wait for the way back, the gradient of the sum of squares)."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = denoiser(x, key=KEY, run=0, indices=range(len(x))).square().sum()
    (gradient,) = torch.autograd.grad(out, x)
    return total, gradient


def test_memory_does_not_grow_with_the_steps_and_the_gradient_is_the_unchecked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(4, 3, 32, 32) / 255

    def of(method: str, evaluations: int) -> tuple[int, torch.Tensor]:
        """Where the activations of so many evaluations may be kept."""
        monkeypatch.setattr(differentiable, "KEPT_PIXELS", evaluations * 4 * 32 * 32)
        return kept(DifferentiableDenoiser(made(tmp_path / "d", method)), x)

    unchecked, expected = of("ddim:5", 5)
    for evaluations in (0, 2):  # 0: less than one needs
        few, _ = of("ddim:3", evaluations)
        many, gradient = of("ddim:5", evaluations)
        assert (many - few) / 2 < 0.05 * unchecked / 5
        assert many == pytest.approx(max(1, evaluations) * unchecked / 5, rel=0.15)
        torch.testing.assert_close(gradient, expected)


def test_memory_does_not_grow_with_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = DifferentiableDenoiser(made(tmp_path / "d", "one-step"))

    def of(edge: int, tiles: int) -> int:
        """Where the activations of so many tiles may be kept."""
        monkeypatch.setattr(differentiable, "KEPT_PIXELS", tiles * 128 * 128)
        return kept(denoiser, images(1, 3, edge, edge) / 255)[0]

    one, four = of(128, 1), [of(240, tiles) for tiles in range(5)]
    assert four[0] == four[1] < 1.5 * one
    for fewer, more in itertools.pairwise(four[1:]):
        assert more - fewer == pytest.approx(one, rel=0.2)


@pytest.mark.parametrize("method", ["one-step", "ddim:2"])
def test_a_network_in_half_precision_points_where_float32_does(tmp_path: Path, method: str) -> None:
    denoiser, x = made(tmp_path / "d", method), images(4, 3, 32, 32) / 255
    kinds = (None, torch.bfloat16)
    exact, near = (kept(DifferentiableDenoiser(denoiser, network_dtype=kind), x)[1] for kind in kinds)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), near.flatten(), 0) > 0.997


def test_a_sanitizer_lets_gradients_through(tmp_path: Path) -> None:
    folder = str(make_denoiser(tmp_path / "d"))
    sanitizer = Sanitizer(0.1, folder, method="ddim:2", device="cpu", differentiable=True)
    x = torch.rand(2, 2, 3, 32, 32, requires_grad=True)
    out = sanitizer(x)
    assert out.shape == x.shape and out.dtype == x.dtype and 0 <= out.min() and out.max() <= 1
    out.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not torch.equal(sanitizer(x), out)  # fresh noise
    copy = pickle.loads(pickle.dumps(sanitizer))
    assert copy(x).shape == x.shape
    with pytest.raises(InputError, match="expected float"):
        sanitizer((x.detach() * 255).byte())
    with pytest.raises(InputError, match="expected uint8"):
        Sanitizer(0.1, folder, device="cpu")(x)
