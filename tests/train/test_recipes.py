"""Recipes by name, frozen, and told apart by everything that they fix."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dpclean.errors import UsageError
from dpclean.train.networks import build, outline
from dpclean.train.recipes import RECIPES, default_recipe, find_recipe


def test_recipes_are_frozen_and_found_by_their_names() -> None:
    for name, recipe in RECIPES.items():
        assert find_recipe(name) is recipe and recipe.name == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.epochs = 1  # type: ignore[misc]


def test_a_size_stands_behind_the_name() -> None:
    assert find_recipe("tiny@24") == dataclasses.replace(find_recipe("tiny"), name="tiny@24", size=24)


def test_torchvision_classifiers_are_found_by_their_names() -> None:
    recipe = find_recipe("torchvision:convnext_tiny")
    assert (recipe.network, recipe.size) == ("torchvision:convnext_tiny", 224)
    assert find_recipe("torchvision:resnet50@64").size == 64


@pytest.mark.parametrize(
    "name", ["resnet", "torchvision:no_such", "tiny@", "tiny@4", "tiny@x", "torchvision:raft_large"]
)
def test_what_is_unknown_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_recipe(name)
    assert "tiny" in refused.value.remedy or "torchvision:" in refused.value.remedy


def test_every_field_changes_the_digest() -> None:
    recipe = find_recipe("fast")
    values = {"str": "x", "int": 7, "float": 0.123, "bool": not recipe.mirror, "tuple": (1, 2, 3), "NoneType": 9}
    digests = {recipe.digest()}
    for field in dataclasses.fields(recipe):
        kind = type(getattr(recipe, field.name)).__name__
        value = not getattr(recipe, field.name) if kind == "bool" else values[kind]
        digests.add(dataclasses.replace(recipe, **{field.name: value}).digest())
    assert len(digests) == len(dataclasses.fields(recipe)) + 1


@pytest.mark.parametrize(
    ("count", "shapes", "name"),
    [
        (100, [(32, 32)], "tiny"),
        (100, [(64, 64), (32, 32)], "tiny@32"),
        (100, [(24, 32)], "tiny@32"),
        (99, [(48, 48), (48, 48), (24, 24)], "tiny@48"),
        (99, [(300, 300), (300, 300), (24, 24)], "tiny@32"),
        (99, [(4, 4), (4, 4), (24, 24)], "tiny@32"),
        (2000, [(28, 28)], "fast"),
        (2000, [(28, 28)] * 1999 + [(33, 28)], "fast@28"),
        (2000, [(300, 300)], "fast@64"),
    ],
)
def test_the_default_goes_by_number_and_size(count: int, shapes: list[tuple[int, int]], name: str) -> None:
    pixels = [np.zeros((*shapes[i % len(shapes)], 3), np.uint8) for i in range(count)]
    assert default_recipe(pixels).name == name


@pytest.mark.parametrize("network", ["torchvision:regnet_x_400mf", "torchvision:convnext_tiny", "resnet18"])
def test_an_outline_has_the_shapes_of_the_network(network: str) -> None:
    recipe = dataclasses.replace(find_recipe("tiny"), network=network)
    whole, outlined = (make(recipe, 7).state_dict() for make in (lambda *of: build(*of, 0), outline))
    assert {name: one.shape for name, one in whole.items()} == {name: one.shape for name, one in outlined.items()}
