"""The head `ridge`: the closed form, both ways, and votes that are the same bits alone and beside any others."""

from __future__ import annotations

import numpy as np
import pytest

from dpclean.data.features import UNIT, unit_rows
from dpclean.train.ridge import Dual, Head, Ridge, fit, fit_both, votes, votes_by_products

DRAW = np.random.default_rng(5)
CLASSES = 4


def members(count: int, dimensions: int = 24) -> tuple[np.ndarray, np.ndarray]:
    return unit_rows(DRAW.standard_normal((count, dimensions))), DRAW.integers(0, CLASSES, count)


@pytest.mark.parametrize("count", [1, 7, 24, 25, 60])
def test_it_is_the_closed_form(count: int) -> None:
    """The same as the least squares that are written out, up to a common factor: dual for few, primal for many."""
    rows, labels = members(count)
    x = np.concatenate([rows, np.ones((count, 1))], axis=1).astype(np.float64)
    y = np.where(np.arange(CLASSES) == labels[:, None], 1.0, -1.0)
    root = np.sqrt(count / CLASSES / np.bincount(labels, minlength=CLASSES)[labels])[:, None]  # classes weigh alike
    penalty = np.sqrt(Ridge().penalty) * np.eye(x.shape[1])
    wanted = np.linalg.lstsq(
        np.concatenate([root * x, penalty]), np.concatenate([root * y, 0 * penalty[:, :CLASSES]]), rcond=None
    )[0]
    head = fit(Ridge(), rows, labels, CLASSES)
    factor = np.linalg.norm(head.weights, axis=0).max() / np.linalg.norm(wanted[:-1], axis=0).max()
    assert np.allclose(head.weights, factor * wanted[:-1], atol=UNIT)
    assert np.allclose(head.bias, factor * wanted[-1], rtol=1e-3, atol=1e-6)


def test_scores_are_exact_so_votes_are_the_same_alone_and_in_any_batch() -> None:
    heads = [fit(Ridge(), *members(count, 1280), CLASSES) for count in (3, 50, 17, 90)]
    points, _ = members(301, 1280)
    whole = votes(heads, points)
    for place, head in enumerate(heads):
        scores = points.astype(np.float64) @ head.weights.astype(np.float64)  # 48 bits hold every sum
        assert (points @ head.weights == scores).all() and np.abs(scores).max() < 1
        assert (votes([head], points)[0] == whole[place]).all()
        assert (whole[place] == (scores.astype(np.float32) + head.bias).argmax(axis=1)).all()
    order = DRAW.permutation(len(points))
    assert (votes(heads[::-1], points[order])[::-1] == whole[:, order]).all()
    shuffled = DRAW.permutation(1280)  # another order of the sum
    assert (points[:, shuffled] @ heads[1].weights[shuffled] == points @ heads[1].weights).all()


def test_the_lowest_class_among_equals_wins() -> None:
    head = Head(np.zeros((3, CLASSES), np.float32), np.array([0, 1, 1, 0], np.float32))
    assert votes([head], np.ones((2, 3), np.float32)).tolist() == [[1, 1]]


def test_a_class_with_more_members_has_no_more_weight() -> None:
    """Nine members of one class and one of another, at right angles: nothing leans to the nine."""
    rows = np.zeros((10, 24), np.float32)
    rows[:9, 0] = rows[9, 1] = 1
    head = fit(Ridge(), rows, np.array([0] * 9 + [1]), 2)
    assert votes([head], unit_rows(np.eye(24)[[0, 1]])).tolist() == [[0, 1]]
    assert abs(head.bias[0]) < 0.2 * np.abs(head.weights).max()


def test_one_class_and_rows_of_zeros_give_a_head() -> None:
    rows, _ = members(5)
    assert set(votes([fit(Ridge(), rows, np.full(5, 2), CLASSES)], rows)[0]) == {2}
    nothing = fit(Ridge(), np.zeros((3, 24), np.float32), np.array([1, 1, 1]), CLASSES)
    assert not nothing.weights.any() and votes([nothing], rows)[0].tolist() == [1] * 5


@pytest.mark.parametrize(("count", "dimensions"), [(1, 24), (7, 24), (24, 24), (40, 1280), (300, 400)])
def test_products_with_the_members_give_the_votes_of_the_weights(count: int, dimensions: int) -> None:
    """On points between classes and among the members too; by the products alone some would be others."""
    alone = 0
    for _ in range(20):
        rows, labels = members(count, dimensions)
        head, dual = fit_both(Ridge(), rows, labels, CLASSES)
        assert dual is not None
        between = [rows[DRAW.integers(0, count, (400, 2))].sum(axis=1), rows, np.zeros((1, dimensions))]
        points = unit_rows(np.concatenate([*between, DRAW.standard_normal((400, dimensions))]))
        products = rows @ points.T
        exact = points.astype(np.float64) @ head.weights + head.bias
        scores = products.astype(np.float64).T @ dual.factors + head.bias
        differences = (scores - exact)[:, :, None] - (scores - exact)[:, None]
        assert np.abs(differences).max() < dual.apart
        wanted = votes([head], points)[0]
        assert (votes_by_products(head, dual, products, points) == wanted).all()
        alone += int((scores.argmax(axis=1) != wanted).sum())
    assert alone or count == 1


def test_members_that_are_more_than_the_dimensions_have_no_products() -> None:
    assert fit_both(Ridge(), *members(25), CLASSES)[1] is None


def test_where_products_tell_nothing_the_weights_decide() -> None:
    """Rows of zeros, and numbers beyond what float32 holds."""
    rows = np.zeros((3, 24), np.float32)
    head, dual = fit_both(Ridge(), rows, np.array([1, 1, 1]), CLASSES)
    points, _ = members(5)
    assert dual is not None and votes_by_products(head, dual, rows @ points.T, points).tolist() == [1] * 5
    rows, labels = members(6)
    head, _ = fit_both(Ridge(), rows, labels, CLASSES)
    beyond = Dual(np.full((6, CLASSES), np.inf, np.float32), float("inf"))
    assert (votes_by_products(head, beyond, rows @ points.T, points) == votes([head], points)[0]).all()
