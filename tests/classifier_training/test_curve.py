"""The training curve shows what the table says."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dpclean.classifier_training.curve import curve_plot, curve_tsv
from dpclean.report.plot import svg
from dpclean.train.trainer import Epoch


@pytest.mark.parametrize("epochs", [1, 2, 7, 300])
def test_every_epoch_is_drawn_and_in_the_table(epochs: int) -> None:
    curve = [Epoch(number, epochs, 2.5 / number, 1 - 0.5 / number, 1.25) for number in range(1, epochs + 1)]
    plot = curve_plot(curve)
    accuracy, loss = plot.lines
    assert list(accuracy.places)[:epochs] == [(e.number, e.accuracy) for e in curve] and len(accuracy.places) >= 2
    assert list(loss.places)[:epochs] == [(e.number, e.loss / 2.5) for e in curve] and "2.5" in loss.label
    assert 1 <= len(plot.ticks) <= 9 and plot.ticks[0][1] == ("1",)
    ElementTree.fromstring(svg(plot))
    assert curve_tsv(curve).splitlines()[1] == "1\t2.500000\t0.500000\t1.250"
    assert len(curve_tsv(curve).splitlines()) == 1 + epochs


def test_a_loss_of_nothing_is_drawn_as_nothing() -> None:
    _, loss = curve_plot([Epoch(1, 1, 0.0, 1.0, 0.1)]).lines
    assert {height for _, height in loss.places} == {0.0}
