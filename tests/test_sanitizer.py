"""The sanitizer as a module of a training pipeline."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from dpclean import Sanitizer
from dpclean.errors import InputError, UsageError
from tests.networks import make_transparent


@pytest.fixture
def sanitizer(tmp_path: Path) -> Sanitizer:
    return Sanitizer(0.1, str(make_transparent(tmp_path / "d")), dtype="fp32")


def grey(*shape: int) -> torch.Tensor:
    return torch.full(shape, 128, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (3, 40, 33), (2, 1, 28, 28), (1, 28, 28)])
def test_shape_and_type_stay_and_the_noise_has_the_size_of_sigma(sanitizer: Sanitizer, shape: tuple[int, ...]) -> None:
    out = sanitizer(grey(*shape))
    assert out.shape == shape and out.dtype == torch.uint8
    deviation = (out.float() - 128).std().item()
    assert 0.9 * 25.5 < deviation < 1.1 * 25.5


def test_every_call_and_every_image_draws_fresh_noise(sanitizer: Sanitizer) -> None:
    first, second = sanitizer(grey(2, 3, 32, 32)), sanitizer(grey(2, 3, 32, 32))
    drawn = [*first, *second]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_a_copy_in_another_process_has_another_key(sanitizer: Sanitizer) -> None:
    copy = pickle.loads(pickle.dumps(sanitizer))
    assert copy._key != sanitizer._key
    assert not torch.equal(copy(grey(3, 32, 32)), sanitizer(grey(3, 32, 32)))


def test_it_works_as_a_transform_and_forked_workers_do_not_share_noise(sanitizer: Sanitizer) -> None:
    transform = v2.Compose([sanitizer, v2.ToDtype(torch.float32, scale=True)])
    data = TensorDataset(grey(4, 3, 32, 32))
    loader = DataLoader(data, batch_size=1, num_workers=2, collate_fn=lambda rows: transform(rows[0][0]))
    images = list(loader)
    assert all(image.dtype == torch.float32 and image.shape == (3, 32, 32) for image in images)
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_in_a_pipeline_it_takes_what_other_v2_transforms_take_and_keeps_types(sanitizer: Sanitizer) -> None:
    pipeline = v2.Compose([sanitizer, v2.RandomHorizontalFlip(0.0)])
    label, box = torch.tensor(3), tv_tensors.BoundingBoxes([[1, 2, 8, 9]], format="XYXY", canvas_size=(30, 33))  # type: ignore[call-overload]
    for image in (
        grey(3, 30, 33),
        tv_tensors.Image(grey(3, 30, 33)),
        tv_tensors.Video(grey(2, 3, 30, 33)),
        Image.new("RGB", (33, 30), (128, 128, 128)),
        Image.new("L", (33, 30), 128),
    ):
        found, kept, others = pipeline(image, label, {"boxes": box, "name": "a"})
        assert type(found) is type(image) and kept is label and others["name"] == "a"
        assert torch.equal(others["boxes"], box)
        before, after = (np.asarray(each).astype(int) for each in (image, found))
        assert before.shape == after.shape and 15 < (after - before).std() < 35
    assert type(pipeline((tv_tensors.Image(grey(1, 28, 28)), 7))) is tuple


@pytest.mark.parametrize("sigma", [-0.25, 5.0, float("nan"), "much", None])
def test_a_sigma_out_of_range_is_refused_before_any_image(sigma: Any) -> None:
    with pytest.raises(UsageError, match="sigma must be from 0 to 4, got "):
        Sanitizer(sigma)


def test_an_empty_batch_stays_empty_and_other_modes_are_refused(sanitizer: Sanitizer) -> None:
    assert sanitizer(grey(0, 3, 32, 32)).shape == (0, 3, 32, 32)
    for mode in ("RGBA", "P", "1", "I;16"):
        with pytest.raises(InputError, match="expected RGB or L"):
            sanitizer(Image.new(mode, (32, 32)))


def test_what_is_computed_is_what_was_given(sanitizer: Sanitizer) -> None:
    computed = 0

    def count(_: object, inputs: tuple[torch.Tensor]) -> None:
        nonlocal computed
        computed += inputs[0][:, 0].numel()

    sanitizer._denoiser._network.register_forward_pre_hook(count)
    for shape in ((3, 32, 32), (1, 3, 28, 28), (9, 3, 64, 64), (130, 3, 32, 32)):
        computed = 0
        sanitizer(grey(*shape))
        assert computed == grey(*shape)[..., 0, :, :].numel()


@pytest.mark.parametrize("images", [torch.zeros(3, 32, 32), grey(32, 32), grey(2, 2, 32, 32)])
def test_what_is_no_uint8_image_is_refused(sanitizer: Sanitizer, images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        sanitizer(images)
