"""The figures of Sec. 5.2 on models whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from imdm_dist.paper.two_tokens import (
    NoiseResponse,
    factorization_error,
    factorization_error_mean,
    noise_response,
    table1_row,
    table2_rows,
    token_entropy,
    validity,
)

LN2 = math.log(2)


class Coin:
    """P(token = 0) is `sure` at both positions where the seed's lowest bit is 1, else 1 - sure."""

    mask_id = 2
    device = torch.device("cpu")

    def __init__(self, sure: float) -> None:
        self.sure = sure
        self.batches: list[int] = []

    def logits(self, x_BL: Tensor, seed_B: Tensor, redraw_BL: Tensor | None = None) -> Tensor:
        assert (x_BL == self.mask_id).all()
        self.batches.append(len(x_BL))
        zero_B = torch.where(seed_B & 1 == 1, self.sure, 1 - self.sure)
        p_BV = torch.stack((zero_B, 1 - zero_B, torch.zeros_like(zero_B)), dim=1)
        # Logits are free up to a constant, and the mask column is closed.
        return (p_BV.clamp_min(1e-30).log() + 3).index_fill(1, torch.tensor([2]), -1e6)[:, None].expand(-1, 2, -1)


def _response(zero: list[tuple[float, float]]) -> NoiseResponse:
    p_K2 = torch.tensor(zero, dtype=torch.float64)
    p_K2V = torch.stack((p_K2, 1 - p_K2, torch.zeros_like(p_K2)), dim=-1)
    return NoiseResponse(torch.arange(len(zero)), p_K2V.log())


def test_a_model_without_noise_has_the_errors_of_independent_tokens() -> None:
    response = noise_response(Coin(0.5), seed=0, draws=64)
    assert factorization_error(response) == pytest.approx(LN2)
    assert factorization_error_mean(response) == pytest.approx(2 * LN2)


def test_a_model_that_decides_has_none() -> None:
    response = noise_response(Coin(1 - 1e-9), seed=0, draws=10_000)
    # What is left of reading 1 is the unevenness of 10,000 coin tosses: about 1 / (2 * 10,000).
    assert factorization_error(response) == pytest.approx(0, abs=1e-3)
    assert factorization_error_mean(response) == pytest.approx(0, abs=1e-6)


def test_errors_by_hand() -> None:
    response = _response([(0.9, 0.8), (0.3, 0.1)])
    q_00, q_11 = (0.9 * 0.8 + 0.3 * 0.1) / 2, (0.1 * 0.2 + 0.7 * 0.9) / 2
    assert factorization_error(response) == pytest.approx(0.5 * math.log(0.5 / q_00) + 0.5 * math.log(0.5 / q_11))
    assert factorization_error_mean(response) == pytest.approx(-(math.log(0.72) + math.log(0.63)) / 2)


def test_always_the_same_pair_is_an_error_of_the_first_reading_alone() -> None:
    response = _response([(0.999, 0.999)] * 4)
    assert factorization_error(response) > 6
    assert factorization_error_mean(response) < 0.01


def test_draws_depend_on_the_seed_and_not_on_the_batch() -> None:
    model = Coin(0.9)
    one, other = (noise_response(model, seed=3, draws=100, batch=batch) for batch in (100, 7))
    assert max(model.batches[1:]) == 7
    assert torch.equal(one.log_p_K2V, other.log_p_K2V)
    assert len(one.seed_K.unique()) == 100
    assert not set(one.seed_K.tolist()) & set(noise_response(model, seed=4, draws=100).seed_K.tolist())


def test_samples() -> None:
    samples = np.array([[0, 0], [1, 1], [0, 1], [0, 0]])
    assert validity(samples) == 0.75
    assert str(token_entropy(samples * 0)) == "0.0"  # and not -0.0
    assert str(factorization_error_mean(_response([(1.0, 1.0)]))) == "0.0"
    assert token_entropy(samples) == pytest.approx(-(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8)))
    row = table1_row(torch.from_numpy(samples), _response([(0.5, 0.5)]))
    assert list(row) == ["validity", "token_entropy", "factorization_error", "factorization_error_mean"]


def test_table_2_takes_the_first_draw_of_each_decision() -> None:
    imdm = _response([(0.1, 0.2), (0.4, 0.3), (0.9, 0.7), (1.0, 1.0)])
    rows = table2_rows(imdm, _response([(0.49, 0.51)] * 2))
    assert [(row["model"], row["noise"], row["draw"]) for row in rows] == [
        ("imdm", "eps_A", 2),
        ("imdm", "eps_B", 0),
        ("mdm", "none", 0),
    ]
    assert [(row["token_1"], row["token_2"]) for row in rows] == [
        pytest.approx((0.9, 0.7)),
        pytest.approx((0.1, 0.2)),
        pytest.approx((0.49, 0.51)),
    ]


def test_table_2_leaves_out_a_decision_that_no_draw_makes() -> None:
    rows = table2_rows(_response([(0.9, 0.9)]), _response([(0.5, 0.5)]))
    assert [row["noise"] for row in rows] == ["eps_A", "none"]
