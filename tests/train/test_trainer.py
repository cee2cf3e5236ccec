"""A fit depends on its arguments and on nothing else; a prediction on its own image."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpclean.errors import Diverged, InputError
from dpclean.train import trainer as trainer_module
from dpclean.train.images import prepare
from dpclean.train.recipes import Recipe, find_recipe
from dpclean.train.trainer import Trainer
from tests.train.pictures import tensors

CPU = torch.device("cpu")
SHORT = replace(find_recipe("tiny"), epochs=3, least_steps=0, batch_size=16)
VARIANTS = {
    "muon": SHORT,
    "sgd": replace(SHORT, optimizer="sgd", lr=0.05, weight_decay=5e-4, schedule="cosine", warmup=0.1, flip="random"),
    "average": replace(SHORT, average=0.9),
    "dropout": replace(find_recipe("torchvision:mobilenet_v3_small@32"), epochs=3, batch_size=16, translate=2),
}


def make(recipe: Recipe = SHORT, size: int = 24, **options: Any) -> Trainer:
    return Trainer(recipe, 2, size=size, device=CPU, **options)


def fitted(trainer: Trainer, images: Tensor, labels: Tensor, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    trainer.fit(images, labels, seed=seed, **options)
    return {name: tensor.clone() for name, tensor in trainer.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str) -> None:
    recipe = VARIANTS[name]
    size = recipe.size or 24
    images, labels = tensors(size=size)
    weights = fitted(make(recipe, size), images, labels)
    assert same(weights, fitted(make(recipe, size), images, labels))
    assert not same(weights, fitted(make(recipe, size), images, labels, seed=2))


def test_a_fit_alone_equals_the_same_fit_after_others() -> None:
    images, labels = tensors()
    others, other_labels = tensors(25, seed=5)
    trainer = make()
    alone = fitted(trainer, images, labels)
    between = fitted(trainer, others, other_labels, seed=3)
    assert not same(alone, between)
    assert same(alone, fitted(trainer, images, labels))


def test_the_global_generator_neither_matters_nor_moves() -> None:
    images, labels = tensors()
    torch.manual_seed(1)
    weights = fitted(make(), images, labels)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(weights, fitted(make(), images, labels))
    assert torch.equal(before, torch.get_rng_state())


def test_training_reads_its_tensors_and_leaves_them_as_they_are() -> None:
    images, labels = tensors()
    kept = images.clone(), labels.clone()
    fitted(make(), images, labels)
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


def test_raw_buffers_that_are_overwritten_after_they_were_read_leave_the_weights_unchanged() -> None:
    arrays = [image.numpy().copy() for image in tensors()[0]]
    labels = tensors()[1]
    weights = fitted(make(), prepare(arrays, None), labels)
    prepared = prepare(arrays, None)
    for array in arrays:
        array[:] = 255
    assert same(weights, fitted(make(), prepared, labels))


def test_two_epochs_read_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One noised copy a run: every epoch sees the pixels it was given, none drawn afresh."""
    images, labels = tensors(32)
    seen: list[Tensor] = []
    augmented: Callable[..., Tensor] = trainer_module.augment.augmented

    def spy(inputs: Tensor, *rest: Any) -> Tensor:
        seen.append(inputs)
        return augmented(inputs, *rest)

    monkeypatch.setattr(trainer_module.augment, "augmented", spy)
    fitted(make(), images, labels)
    epochs = [torch.cat(seen[2 * epoch : 2 * epoch + 2]) for epoch in range(3)]
    rows = [sorted(image.numpy().tobytes() for image in epoch) for epoch in epochs]
    assert len(seen) == 6 and rows[0] == rows[1] == rows[2]
    expected = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(sum(epochs[0]), sum(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stop", [4, 6])  # within an epoch of three steps, and at its end
def test_a_resumed_fit_ends_with_the_weights_of_an_unbroken_one(name: str, stop: int) -> None:
    recipe = VARIANTS[name]
    size = recipe.size or 24
    images, labels = tensors(size=size)

    class Killed(Exception):
        pass

    saved: list[Any] = []

    def stop_there(done: int, steps: int) -> None:
        if done == stop:
            saved.append({name: _cloned(value) for name, value in first.checkpoint().items()})
            raise Killed

    curve: list[Any] = []
    whole = fitted(make(recipe, size), images, labels, on_epoch=curve.append)
    first = make(recipe, size)
    with pytest.raises(Killed):
        first.fit(images, labels, seed=1, on_step=stop_there)
    resumed_curve: list[Any] = []
    resumed = fitted(make(recipe, size), images, labels, resume=saved[0], on_epoch=resumed_curve.append)
    assert same(whole, resumed)
    left = curve[stop // 3 :]
    assert [(e.number, e.loss, e.accuracy) for e in resumed_curve] == [(e.number, e.loss, e.accuracy) for e in left]


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _cloned(item) for name, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value


def test_it_learns() -> None:
    images, labels = tensors(80)
    trainer = make(replace(SHORT, epochs=8))
    trainer.fit(images, labels, seed=1)
    others, truth = tensors(40, seed=9)
    assert (trainer.predict(others) == truth).float().mean() > 0.9


def test_an_image_alone_gets_the_scores_that_it_gets_among_others() -> None:
    """No batch statistics at prediction: one point's vote does not depend on other points."""
    images, labels = tensors(40)
    trainer = make(replace(SHORT, predict_batch=16))
    trainer.fit(images, labels, seed=1)
    together = trainer.scores(images)
    backwards = trainer.scores(images.flip(0)).flip(0)
    alone = torch.cat([trainer.scores(image[None]) for image in images])
    assert torch.equal(together, alone) and torch.equal(together, backwards)
    assert torch.equal(trainer.predict(images), together.argmax(1))


def test_prediction_changes_nothing() -> None:
    images, labels = tensors()
    trainer = make()
    weights = fitted(trainer, images, labels)
    trainer.predict(images)
    assert same(weights, trainer.state_dict())


def test_weights_go_to_another_trainer() -> None:
    images, labels = tensors()
    trainer, other = make(), make()
    other.load_state_dict(fitted(trainer, images, labels))
    assert torch.equal(trainer.scores(images), other.scores(images))
    with pytest.raises(InputError, match="head.weight"):
        Trainer(SHORT, 3, size=24, device=CPU).load_state_dict(trainer.state_dict())


def test_a_loss_that_is_not_finite_is_told() -> None:
    images, labels = tensors()
    with pytest.raises(Diverged, match="not finite"):
        make(replace(SHORT, optimizer="sgd", lr=1e30)).fit(images, labels, seed=1)


def test_init_begins_from_other_weights_and_a_head_of_another_shape_stays_fresh() -> None:
    images, labels = tensors()
    first = fitted(make(), images, labels)
    still = replace(SHORT, optimizer="sgd", lr=0.0, freeze=True)
    assert same(first, fitted(make(still, init=first), images, labels))
    images3, labels3 = tensors(60, classes=3)
    transferred = Trainer(still, 3, size=24, device=CPU, init=first)
    transferred.fit(images3, labels3, seed=1)
    state = transferred.state_dict()
    assert state["head.weight"].shape[0] == 3
    assert all(torch.equal(first[name], state[name]) for name in first if name != "head.weight")
    with pytest.raises(InputError, match="fit the network"):
        make(init={"head.weight": torch.zeros(2, 64)})


def test_images_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(InputError, match="8 x 8 do not fit"):
        make(SHORT, 8)
    make(SHORT, 9)


@pytest.mark.parametrize("name", ["squeezenet1_1@32", "googlenet@32", "convnext_tiny@32"])
def test_torchvision_classifiers_of_every_kind_can_be_fitted(name: str) -> None:
    """A head that is a convolution, auxiliary outputs in training, no batch norm."""
    recipe = replace(find_recipe(f"torchvision:{name}"), epochs=1, translate=2)
    images, labels = tensors(4, size=32)
    trainer = make(recipe, 32)
    trainer.fit(images, labels, seed=1)
    assert trainer.scores(images).sum(1).sub(1).abs().max() < 1e-5


def test_a_frozen_network_learns_its_head_only() -> None:
    images, labels = tensors()
    first = fitted(make(), images, labels)
    after = fitted(make(replace(SHORT, freeze=True), init=first), images, labels, seed=2)
    assert [name for name in first if not torch.equal(first[name], after[name])] == ["head.weight"]


def test_half_precision_is_left_out_where_the_processor_has_no_instructions_for_it() -> None:
    """There it would take ten times as long. oneDNN is told to use no more than AVX2."""
    program = """
import torch
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Trainer
trainer = Trainer(find_recipe("tiny"), 2, size=32, device=torch.device("cpu"))
trainer.network.register_forward_hook(lambda _, __, output: print(output.dtype))
trainer.predict(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
"""
    narrow = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=narrow, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"torch.float32"}
