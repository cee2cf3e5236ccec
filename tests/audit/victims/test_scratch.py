"""A victim that learns all its weights: the same seed gives the same, poisons mislead it, attackers see another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpclean.audit.defences.deep_knn import DeepKnn
from dpclean.audit.victims.scratch import Scratch, common_size
from dpclean.data.dataset import Images, read_images
from dpclean.errors import InputError
from dpclean.train.recipes import find_recipe

TINY = replace(find_recipe("tiny"), least_steps=30)


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return read_images(raw, workers=1)


@pytest.fixture(scope="module")
def victim(data: Images) -> Scratch:
    return Scratch(TINY, len(data.classes), common_size(data.pixels, TINY), torch.device("cpu"))


def test_a_seed_decides_what_it_learns(data: Images, victim: Scratch) -> None:
    (learner,) = victim.learners
    seen = victim.read(data.pixels)
    one, other, again = (learner.fit(seen, data.labels, 3, seed) for seed in (1, 2, 1))
    weights = [made.weights for made in (one, other, again)]  # type: ignore[attr-defined]
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (one.predict(seen) == again.predict(seen)).all()  # whichever was trained last
    assert (one.predict(seen) == data.labels).mean() > 0.8


def test_wrong_labels_mislead_it(data: Images, victim: Scratch) -> None:
    (learner,) = victim.learners
    seen = victim.read(data.pixels)
    wrong = (data.labels + 1) % 3
    assert (learner.fit(seen, wrong, 3, 1).predict(seen) == wrong).mean() > 0.8


def test_an_attacker_sees_another_network_that_learned_the_same_way(data: Images, victim: Scratch) -> None:
    network = victim.network(data.pixels, data.labels, 3, 5, lambda: None)
    again = victim.network(data.pixels, data.labels, 3, 5, lambda: None)
    assert network.digest == again.digest and network.size == 16
    levels = torch.from_numpy(np.stack(data.pixels[:2])).permute(0, 3, 1, 2).float()
    rows = network.differentiable_features(levels).numpy()
    assert np.allclose(rows, network.features(data.pixels[:2]), rtol=1e-3, atol=1e-4)


def test_defences_choose_by_what_it_learned(data: Images, victim: Scratch) -> None:
    labels = data.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    rows = victim.rows(victim.read(data.pixels), data.labels, 3, 1, lambda: None)
    assert rows.shape[0] == len(data) and rows.dtype == np.float32
    assert DeepKnn().chooses and not DeepKnn().kept(rows, labels)[0]


def test_images_of_several_sizes_need_a_size(data: Images) -> None:
    mixed = [*data.pixels, np.zeros((20, 16, 3), np.uint8)]
    with pytest.raises(InputError, match="not squares of one size") as refused:
        common_size(mixed, TINY)
    assert "--victim tiny@32" in refused.value.remedy
    assert common_size(mixed, find_recipe("tiny@24")) == 24
