"""A step over tensors that stay: what ran in them before leaves nothing, and a card replays what it would launch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpclean.train.networks import build, head
from dpclean.train.recipes import Recipe, find_recipe
from dpclean.train.step import Drawn, Step
from dpclean.train.trainer import Epoch, Trainer
from tests.train.pictures import tensors
from tests.waits import Waits

MUON = replace(find_recipe("tiny"), epochs=3, least_steps=0, batch_size=16, average=0.9)
SGD = replace(MUON, optimizer="sgd", lr=0.05, weight_decay=5e-4, average=0.0)
DROPOUT = replace(find_recipe("torchvision:mobilenet_v3_small@32"), epochs=2, batch_size=16, translate=2)
CUDA = torch.device("cuda")


def drawn(steps: int, size: int, seed: int) -> Drawn:
    generator = torch.Generator().manual_seed(seed)
    return Drawn(
        torch.randperm(steps * size, generator=generator).view(steps, size),
        torch.rand(steps, size, generator=generator) < 0.5,
        torch.randint(5, (steps, 2, size), generator=generator),
        torch.linspace(1, 0.5, steps),
    )


@pytest.mark.parametrize("recipe", [MUON, SGD], ids=["muon", "sgd"])
def test_after_a_reset_nothing_is_left_of_the_steps_before(recipe: Recipe) -> None:
    images, labels = tensors(48)
    network = build(recipe, 2, 1)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def begun() -> Step:
        return Step(
            recipe, network, head(network), images, labels, 3, lambda x: x.permute(0, 3, 1, 2) / 64 - 2,
            lambda x: network(x), replay=False,
        )  # fmt: skip

    def result(step: Step) -> list[Tensor]:
        network.load_state_dict(weights)
        step.reset()
        step.draw(drawn(3, 16, 0), 0)
        for _ in range(3):
            step()
        averages = [] if step.average is None else list(step.average.state_dict().values())
        return [tensor.clone() for tensor in (*network.state_dict().values(), step.totals, *averages)]

    fresh, used = begun(), begun()
    used.draw(drawn(3, 16, 9), 1)
    used()
    used()
    for one, other in zip(result(fresh), result(used), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("recipe", [MUON, SGD], ids=["muon", "sgd"])
def test_no_step_looks_at_what_it_computed_and_a_fit_once(recipe: Recipe) -> None:
    trainer = Trainer(recipe, 2, size=recipe.size or 24, device=torch.device("cpu"))
    images, labels = tensors(48, size=trainer.size)
    looks: list[int] = []
    with Waits() as waits:
        trainer.fit(images, labels, seed=1, on_step=lambda done, steps: looks.append(len(waits.found)))
    assert len(looks) >= 6 and len(set(looks)) == 1, waits.found
    assert len(waits.found) == looks[0] + 1, waits.found


def fitted(trainer: Trainer, seed: int) -> tuple[dict[str, Tensor], list[Epoch]]:
    curve: list[Epoch] = []
    images, labels = tensors(60, size=trainer.size)
    trainer.fit(images, labels, seed=seed, on_epoch=curve.append)
    return trainer.state_dict(), curve


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [MUON, SGD, DROPOUT], ids=["muon", "sgd", "dropout"])
def test_a_replayed_fit_does_what_a_launched_one_does(recipe: Recipe) -> None:
    recipe = replace(recipe, precision="fp32")
    size = recipe.size or 24
    replayed, seen = fitted(Trainer(recipe, 2, size=size, device=CUDA), 1)
    launched, told = fitted(Trainer(recipe, 2, size=size, device=CUDA, replay=False), 1)
    for one, other in zip(seen, told, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=0.02)
    for name in launched:
        torch.testing.assert_close(replayed[name], launched[name], rtol=0.05, atol=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [MUON, SGD], ids=["muon", "sgd"])
def test_a_replayed_fit_depends_on_its_arguments_alone(recipe: Recipe) -> None:
    first = Trainer(recipe, 2, size=24, device=CUDA)
    weights, _ = fitted(first, 1)
    others, _ = fitted(first, 2)
    again, _ = fitted(first, 1)
    elsewhere, _ = fitted(Trainer(recipe, 2, size=24, device=CUDA), 1)
    assert not all(torch.equal(weights[name], others[name]) for name in weights)
    for name in weights:
        assert torch.equal(weights[name], again[name]) and torch.equal(weights[name], elsewhere[name])
