"""Ways to take the noise away: each does what its formula says, on every kind of image."""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dpclean.certify.options import CertifyOptions
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.denoise.methods import Evaluation, Noise, registry
from dpclean.denoise.methods.registry import FORMS, METHODS, find_method
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.denoise.schedule import NoiseLevel, Schedule
from dpclean.errors import SetupError, UsageError
from dpclean.noise import add_noise, to_model_input
from dpclean.noise.normal import standard_normal
from dpclean.pipeline.options import SanitizeOptions
from dpclean.sanitizer import Sanitizer
from tests.networks import PATCHES, make_denoiser, make_transparent

KEY = bytes(range(32))


def image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def denoised(denoiser: Denoiser, images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    return {result.index: result.pixels for result in denoiser.denoise(images.items(), key=KEY)}


def sigma_at(timestep: int) -> float:
    """Of the schedule of tests/networks.py."""
    abar = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timestep])
    return float(((1 - abar) / abar) ** 0.5 / 2)


def noisy(model: Any) -> None:
    """Predictions of about the size of noise, as a fitted network has them."""
    model.conv_out.weight.mul_(4)


@torch.inference_mode()
def of_diffusers(folder: Path, clean: np.ndarray, timestep: int, steps: int, kind: str) -> np.ndarray:
    """uint8 [N, H, W, C] by diffusers' own network and scheduler, whose timesteps lie `timestep / steps` apart."""
    from diffusers import DDIMScheduler, UNet2DModel

    network = UNet2DModel.from_pretrained(folder).eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type=kind, clip_sample=True)
    scheduler.set_timesteps(1000 * steps // timestep)
    abar, images = float(scheduler.alphas_cumprod[timestep]), torch.from_numpy(clean)
    x = to_model_input(
        images, sigma_at(timestep), abar, key=KEY, run=0, indices=np.arange(len(clean)), dtype=torch.float32
    )
    for step in range(timestep, 0, -timestep // steps):
        found = scheduler.step(network(x, step).sample, step, x, eta=0.0)
        x = found.prev_sample
    result: np.ndarray = ((found.pred_original_sample.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return result.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [2, 4])
def test_ddim_does_what_diffusers_scheduler_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, steps: int
) -> None:
    folder = make_denoiser(tmp_path / "d", prediction_type=kind, prepare=noisy)
    denoiser = Denoiser(find_denoiser(str(folder)), sigma_at(200), dtype="fp32", device="cpu", method=f"ddim:{steps}")
    monkeypatch.setattr("dpclean.denoise.denoiser.correction_of", lambda noised, *_: torch.zeros(len(noised), 3, 1, 1))
    clean = np.stack([image((32, 32, 3), seed) for seed in range(4)])
    expected = of_diffusers(folder, clean, 200, steps, kind)
    found = denoised(denoiser, dict(enumerate(clean)))
    assert np.abs(np.stack([found[i] for i in range(4)]).astype(int) - expected).max() <= 1
    other = Denoiser(find_denoiser(str(folder)), sigma_at(200), dtype="fp32", device="cpu")
    assert np.abs(denoised(other, {0: clean[0]})[0].astype(int) - expected[0]).max() > 1


@torch.inference_mode()
def of_ddpm(folder: Path, clean: np.ndarray, timestep: int, steps: int) -> np.ndarray:
    """uint8 [N, H, W, C] by diffusers' own network and DDPMScheduler, which is fed the noise of the key."""
    from diffusers import DDPMScheduler, UNet2DModel

    network = UNet2DModel.from_pretrained(folder).eval()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(timesteps=list(range(timestep, 0, -timestep // steps)))
    indices, shape = np.arange(len(clean)), clean.shape[1:]
    x = to_model_input(
        torch.from_numpy(clean), sigma_at(timestep), float(scheduler.alphas_cumprod[timestep]), key=KEY, run=0,
        indices=indices, dtype=torch.float32,
    )  # fmt: skip
    for number, step in enumerate(scheduler.timesteps.tolist()):
        drawn = standard_normal(
            shape,
            (0, 0),
            shape[:2],
            device=x.device,
            key=KEY,
            purpose=f"sde/{number}",
            run=0,
            indices=indices,
            test=False,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, drawn=drawn, **__: drawn)
            found = scheduler.step(network(x, step).sample, step, x)
        x = found.prev_sample
    result: np.ndarray = ((found.pred_original_sample.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return result.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_sde_does_what_diffusers_scheduler_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, variance: str
) -> None:
    wide = {"out_channels": 6} if variance == "learned_range" else {}
    folder = make_denoiser(tmp_path / "d", prediction_type=kind, prepare=noisy, **wide)
    written = folder / "scheduler" / "scheduler_config.json"
    written.write_text(json.dumps({**json.loads(written.read_text()), "variance_type": variance}))
    denoiser = Denoiser(find_denoiser(str(folder)), sigma_at(200), dtype="fp32", device="cpu", method="sde:4")
    monkeypatch.setattr("dpclean.denoise.denoiser.correction_of", lambda noised, *_: torch.zeros(len(noised), 3, 1, 1))
    clean = np.stack([image((32, 32, 3), seed) for seed in range(4)])
    # diffusers goes from one timestep to the next below it in its own list, at the last to timestep 0
    expected = of_ddpm(folder, clean, 200, 4)
    found = denoised(denoiser, dict(enumerate(clean)))
    assert np.abs(np.stack([found[i] for i in range(4)]).astype(int) - expected).max() <= 1
    without = Denoiser(find_denoiser(str(folder)), sigma_at(200), dtype="fp32", device="cpu", method="ddim:4")
    assert np.abs(denoised(without, {0: clean[0]})[0].astype(int) - expected[0]).max() > 1


def test_sde_refuses_a_variance_that_it_does_not_know(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    written = folder / "scheduler" / "scheduler_config.json"
    written.write_text(json.dumps({**json.loads(written.read_text()), "variance_type": "learned"}))
    with pytest.raises(SetupError, match="variance_type 'learned'"):
        Denoiser(find_denoiser(str(folder)), 0.25, device="cpu", method="sde:4")
    Denoiser(find_denoiser(str(folder)), 0.25, device="cpu", method="ddim:4")


def test_timesteps_are_evenly_spaced_from_the_images_own_down(tmp_path: Path) -> None:
    denoiser = Denoiser(find_denoiser("natural"), 0.25, device="cpu", method="ddim:5")
    timesteps = [level.timestep for level in denoiser._levels]
    np.testing.assert_allclose(timesteps, denoiser.level.timestep * np.array([1, 0.8, 0.6, 0.4, 0.2]))
    sigmas = [level.sigma for level in denoiser._levels]
    assert sigmas == sorted(sigmas, reverse=True) and sigmas[0] == 0.25


@pytest.mark.parametrize("config", [{}, PATCHES], ids=["pixels", "patches"])
def test_ddim_takes_images_of_any_size_and_noises_them_once(tmp_path: Path, config: dict[str, int]) -> None:
    folder = make_transparent(tmp_path / "d", **config)
    denoiser = Denoiser(find_denoiser(str(folder)), 0.25, dtype="fp32", device="cpu", method="ddim:3")
    shapes = [(32, 32, 3), (1, 97, 3), (28, 28, 1), (33, 129, 3), (300, 40, 3), (170, 200, 1)]
    images = {i: image(shape, i) for i, shape in enumerate(shapes)}
    results = denoised(denoiser, images)
    for index, clean in images.items():
        noised = add_noise(clean[None], 0.25, key=KEY, run=0, indices=np.array([index]))[0]
        assert np.abs(results[index].astype(int) - noised.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("method", ["ddim:2", "sde:2"])
def test_no_image_changes_what_a_method_makes_of_another(tmp_path: Path, method: str) -> None:
    folder = make_denoiser(tmp_path / "d")
    denoiser = Denoiser(find_denoiser(str(folder)), 0.25, device="cpu", batch_pixels=4 * 1024, method=method)
    shapes = [(32, 32, 3)] * 3 + [(28, 28, 1), (140, 40, 3)]
    images = {i: image(shape, i) for i, shape in enumerate(shapes)}
    others = {i: image(shape, 100 + i) for i, shape in enumerate(shapes)}
    whole, mixed = denoised(denoiser, images), denoised(denoiser, {**others, 1: images[1], 4: images[4]})
    assert [np.array_equal(whole[i], mixed[i]) for i in images] == [False, True, False, False, True]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_keeps_the_mean_of_an_image(tmp_path: Path, kind: str) -> None:
    """A network that is off towards a colour is set right after several steps as after one."""

    def lean(model: Any) -> None:
        model.conv_out.weight.zero_()
        model.conv_out.bias.copy_(torch.tensor([0.4, 0.0, -0.4]))

    folder = make_denoiser(tmp_path / "d", prediction_type=kind, prepare=lean)
    clean = np.full((64, 64, 3), (150, 120, 90), np.uint8)
    for method in ("one-step", "ddim:3"):
        denoiser = Denoiser(find_denoiser(str(folder)), 0.1, dtype="fp32", device="cpu", method=method)
        means = denoised(denoiser, {0: clean})[0].mean((0, 1))
        # what noise explains is left, 2 standard errors, and about as much is by chance in the noise itself
        assert np.abs(means - (150, 120, 90)).max() < 4 * 0.1 * 255 / 64 + 0.5, method


def test_what_half_precision_cannot_hold_is_done_again_by_the_same_method(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d", prepare=lambda model: model.conv_in.weight.mul_(1e7))
    found = {}
    for dtype in ("fp16", "fp32"):
        denoiser = Denoiser(find_denoiser(str(folder)), 0.25, dtype=dtype, device="cpu", method="ddim:2")
        (found[dtype],) = denoiser.denoise([(1, image((32, 32, 3)))], key=KEY)
    assert found["fp16"].retried and found["fp16"].finite and not found["fp32"].retried
    assert np.abs(found["fp16"].pixels.astype(int) - found["fp32"].pixels).max() <= 1


def test_without_noise_ddim_leaves_images_as_they_are(tmp_path: Path) -> None:
    folder = make_denoiser(tmp_path / "d")
    denoiser = Denoiser(find_denoiser(str(folder)), 0.0, dtype="fp32", device="cpu", method="ddim:4")
    clean = image((32, 32, 3))
    assert np.array_equal(denoised(denoiser, {0: clean})[0], clean)


def test_the_networks_of_a_method_keep_their_filters_once(tmp_path: Path) -> None:
    denoiser = Denoiser(find_denoiser("natural"), 0.25, device="cpu", method="ddim:4")
    places: dict[str, set[int]] = {"filters": set(), "others": set()}
    for evaluation in denoiser._evaluations:
        assert isinstance(evaluation.network, torch.nn.Module)
        for parameter in evaluation.network.parameters():
            places["filters" if parameter.ndim > 1 else "others"].add(parameter.data_ptr())
    filters = [parameter for parameter in denoiser._network.parameters() if parameter.ndim > 1]
    assert len(places["filters"]) == len(filters) and len(places["others"]) > 4 * len(filters)


def test_finding_the_batch_takes_two_evaluations_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[float] = []
    forward = FixedLevelNetwork.forward

    def counted(self: FixedLevelNetwork, x: torch.Tensor) -> torch.Tensor:
        called.append(float(self.embedding.sum()))
        return forward(self, x)

    monkeypatch.setattr(FixedLevelNetwork, "forward", counted)
    folder = str(make_denoiser(tmp_path / "d"))
    denoiser = Denoiser(find_denoiser(folder), 0.25, device="cpu", batch_pixels=1024, method="ddim:6")
    assert len(called) == 2
    denoised(denoiser, {0: image((32, 32, 3))})
    assert len(called) == 2 + 6 and len(set(called[2:])) == 6


def test_names_are_read_as_they_are_written() -> None:
    assert [find_method(name).name for name in ("one-step", "ddim:2", "ddim:100")] == [
        "one-step",
        "ddim:2",
        "ddim:100",
    ]
    assert FORMS == tuple(method.form for method in METHODS) == ("one-step", "ddim:STEPS", "sde:STEPS")


@pytest.mark.parametrize(
    "name", ["", "sde", "sde:1", "sde:101", "ddim",
             "ddim:", "ddim:0", "ddim:1", "ddim:-2", "ddim:04", "ddim:2.5", "ddim:101", "ddim:٣",
             "ddim:" + 5000 * "9", "one-step:2", "one-step:"],
)  # fmt: skip
def test_what_is_no_method_is_refused_before_anything_is_read(name: str) -> None:
    for refuse in (
        lambda: SanitizeOptions(sigma=0.25, method=name),
        lambda: CertifyOptions(sigma="0.25", method=name),
        lambda: Sanitizer(0.25, method=name),
    ):
        with pytest.raises(UsageError) as refusal:
            refuse()
        assert "one-step" in refusal.value.remedy


class Drawing:
    """A method whose result is what it draws in its second step."""

    form = name = "drawing"

    @classmethod
    def of(cls, argument: str | None) -> Drawing:
        return cls()

    def levels(self, start: NoiseLevel, schedule: Schedule) -> Sequence[NoiseLevel]:
        return (start,)

    def result_type(self, prediction_type: str) -> str:
        return "sample"

    def denoise(
        self, noised: torch.Tensor, evaluations: Sequence[Evaluation], schedule: Schedule, noise: Noise
    ) -> torch.Tensor:
        return noise(1) / 8


@pytest.mark.parametrize("address", [{}, {"run": 3}, {"test": True}], ids=str)
def test_what_a_method_draws_is_an_images_own_and_cut_with_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: dict[str, Any]
) -> None:
    monkeypatch.setattr(registry, "METHODS", (*METHODS, Drawing))
    folder = make_transparent(tmp_path / "d")
    denoiser = Denoiser(find_denoiser(str(folder)), 0.25, dtype="fp32", device="cpu", method="drawing")
    shapes = [(32, 32, 3), (32, 32, 3), (31, 50, 1), (300, 200, 3), (170, 40, 1)]
    images = {7 + i: np.full(shape, 128, np.uint8) for i, shape in enumerate(shapes)}
    for result in denoiser.denoise(images.items(), key=KEY, **address):
        clean = images[result.index]
        expected = np.zeros(clean.shape)
        for y, x in itertools.product(range(0, clean.shape[0], 64), range(0, clean.shape[1], 64)):
            cell = clean[None, y : y + 64, x : x + 64]
            key = hmac.digest(KEY, f"dpclean/1/sde/1/{y // 64}/{x // 64}".encode(), "sha256")
            drawn = add_noise(0 * cell, 4.0, key=key, indices=np.array([result.index]), **{"run": 0, **address})
            expected[y : y + 64, x : x + 64] = (drawn[0] / (255 * 4.0) / 8 + 1) * 127.5  # in its unit, as a sample
        assert np.abs(result.pixels - expected.clip(0, 255)).max() < 8  # the mean is kept; others are off by 18


def test_windows_of_the_noise_of_an_image_agree_where_they_overlap() -> None:
    def drawn(corner: tuple[int, int], edges: tuple[int, int]) -> torch.Tensor:
        return standard_normal(
            (150, 200, 3),
            corner,
            edges,
            device=torch.device("cpu"),
            key=KEY,
            purpose="sde/0",
            run=0,
            indices=[3],
            test=False,
        )

    whole = drawn((0, 0), (150, 200))
    for corner, edges in (((0, 0), (1, 1)), ((63, 64), (2, 1)), ((30, 100), (120, 100)), ((149, 199), (1, 1))):
        rows, columns = (slice(start, start + edge) for start, edge in zip(corner, edges, strict=True))
        assert torch.equal(drawn(corner, edges), whole[:, :, rows, columns])
    assert whole.unique().numel() > 3000  # cells do not repeat one another


def test_what_a_method_draws_is_standard_normal() -> None:
    drawn = standard_normal(
        (40, 40, 3), (0, 0), (40, 40), device=torch.device("cpu"), key=KEY, purpose="sde/0",
        run=0, indices=np.arange(64), test=False,
    )  # fmt: skip
    assert drawn.shape == (64, 3, 40, 40)
    result = stats.kstest(drawn.flatten().numpy(), "norm")
    assert result.pvalue > 1e-6 and abs(float(drawn.square().mean()) - 1) < 0.01


@pytest.mark.gpu
@torch.inference_mode()
def test_captured_kernels_of_several_timesteps_do_what_the_networks_do() -> None:
    denoiser = Denoiser(find_denoiser("natural"), 0.25, device="cuda", method="ddim:3", batch_pixels=16 * 1024)
    for number, (count, edge) in enumerate([(16, 32), (4, 64), (16, 32)]):
        noised = torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(number))
        noised = noised.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
        launched = denoiser._predict(noised, denoiser._evaluations).clone()
        first = denoiser._predict(noised).clone()
        torch.testing.assert_close(first, launched, rtol=0.03, atol=0.05)
        assert torch.equal(denoiser._predict(noised), first)
