"""The order of rows: a permutation an epoch, whatever part of it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from imdm_dist.data import RowOrder
from imdm_dist.data import row_order as order_module


@pytest.mark.parametrize("rows", [1, 2, 7, 2**13, 70_000])
def test_every_epoch_visits_every_row_once(rows: int) -> None:
    order = RowOrder(rows, seed=3)
    for epoch in (0, 1, 9):
        assert np.array_equal(np.sort(order.rows_of(epoch * rows, rows)), np.arange(rows))


def test_any_cut_gives_the_same_order() -> None:
    whole = RowOrder(7, seed=3).rows_of(0, 70_000)
    assert whole.dtype == np.int64
    order = RowOrder(7, seed=3)
    for first, count in [(0, 1), (6, 2), (8_185, 30), (20_001, 40_000), (5, 0), (3, 8_190 * 2)]:
        assert np.array_equal(order.rows_of(first, count), whole[first : first + count])
    assert np.array_equal(np.concatenate([order.rows_of(at, 3) for at in range(0, 300, 3)]), whole[:300])


def test_epochs_and_seeds_differ() -> None:
    order = RowOrder(1000, seed=3)
    epochs = [order.rows_of(epoch * 1000, 1000) for epoch in range(3)]
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], RowOrder(1000, seed=4).rows_of(0, 1000))
    assert not np.array_equal(epochs[0], np.arange(1000))


def test_epochs_drawn_together_equal_epochs_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    together = RowOrder(5, seed=-(2**40)).rows_of(0, 200)
    monkeypatch.setattr(order_module, "_DRAWN_TOGETHER", 1)
    assert np.array_equal(RowOrder(5, seed=-(2**40)).rows_of(0, 200), together)


def test_the_six_orders_of_three_rows_are_equally_likely() -> None:
    epochs = RowOrder(3, seed=0).rows_of(0, 3 * 6_000).reshape(-1, 3)
    _, counts = np.unique(epochs, axis=0, return_counts=True)
    assert len(counts) == 6
    # chi-square with 5 degrees of freedom: above 25.7 once in ten thousand
    assert ((counts - 1000) ** 2 / 1000).sum() < 25.7
