"""A victim that goes on from given weights: all of them move, its head is new, the same seed gives the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpclean.audit.victims import fine_tuned
from dpclean.audit.victims.fine_tuned import FineTuned
from dpclean.data.dataset import Images, read_images
from dpclean.train.extractor import Extractor, find_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return read_images(raw, workers=1)


@pytest.fixture(scope="module")
def extractor(model: Path) -> Extractor:
    return find_extractor(str(model), device=CPU)


def test_all_weights_learn_on_and_the_head_is_new(
    data: Images, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuned, "LEAST_STEPS", 40)
    given = extractor.trainer.state_dict()
    victim = FineTuned(extractor, 3, CPU)  # as many classes as it has itself
    init = victim.training.init
    assert init is not None and not init["head.weight"].any() and given["head.weight"].any()
    assert all(torch.equal(init[name], given[name]) for name in given if name != "head.weight")
    seen = victim.read(data.pixels)
    one, again = (victim.training.fit(seen, data.labels, 3, 4) for _ in range(2))
    assert all(torch.equal(one.weights[name], again.weights[name]) for name in given)
    moved = [name for name in given if "norm" not in name and not torch.equal(one.weights[name], given[name])]
    assert set(moved) == {name for name in given if "norm" not in name} - {"whiten.weight"}
    for name in (name for name in moved if name != "head.weight"):  # not begun anew
        assert (one.weights[name] - given[name]).norm() < 0.7 * given[name].norm()
    assert (one.predict(seen) == data.labels).mean() > 0.8


def test_it_reads_what_its_network_takes_and_knows_where_that_comes_from(data: Images, extractor: Extractor) -> None:
    victim = FineTuned(extractor, 7, CPU)
    init = victim.training.init
    assert init is not None and init["head.weight"].shape[0] == 7
    assert victim.ancestry is extractor.ancestry
    seen = victim.read(data.pixels)
    rows = victim.rows(seen, data.labels, 7, 0, lambda: None)
    assert (rows == extractor.features(data.pixels)).all()
