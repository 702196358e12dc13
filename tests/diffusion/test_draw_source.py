"""Sources of draws: what a source is told, and that it decides."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config import CouplingConfig, EvaluationConfig, identifying_settings
from imdm_dist.config.setting import NoisePolicy
from imdm_dist.diffusion.draw_source import CounterSource
from imdm_dist.diffusion.sampler import sample
from imdm_dist.draws import Purpose
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.model import MaskedRows, Vocabulary
from imdm_dist.registry import SOURCES
from tests.coupling.antithetic import AntitheticSource
from tests.small import small_model

LENGTH = 7


class Told(CounterSource):
    """Keeps what it is told of the tokens that it draws: seed, position and redraw."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def token(
        self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
    ) -> Tensor:
        self.rows += zip(seed_R.tolist(), position_R.tolist(), redraw_R.tolist(), strict=True)
        return super().token(vocabulary, logits_RV, seed_R, position_R, redraw_R)


@pytest.mark.parametrize("policy", ["posterior", "fixed", "fresh"])
def test_a_source_is_told_the_noise_that_the_model_saw(policy: NoisePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = small_model(), Told()
    seen: dict[tuple[int, int], int] = {}  # redraw at the last evaluation, by seed and position
    hidden = model.hidden

    def watched(x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        assert masked is not None
        rows = zip(masked.seed_M.tolist(), masked.position_M.tolist(), masked.redraw_M.tolist(), strict=True)
        seen.update({(seed, position): redraw for seed, position, redraw in rows})
        return hidden(x_BL, masked)

    told: list[bool] = []
    token = source.token

    def compared(*arguments: Tensor) -> Tensor:
        drawn = token(*arguments)  # type: ignore[arg-type]
        told.extend(seen[seed, position] == redraw for seed, position, redraw in source.rows[len(told) :])
        return drawn

    monkeypatch.setattr(model, "hidden", watched)
    monkeypatch.setattr(source, "token", compared)
    start_BL = torch.full((20, LENGTH), model.mask_id)
    sample(model, start_BL, draws.derive_seed(3, Purpose.SAMPLE, torch.arange(20)), 16, policy, source=source)
    assert len(told) == 20 * LENGTH and all(told)
    assert any(redraw for _, _, redraw in source.rows) == (policy != "fixed")


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_noise_of_few_dimensions_is_the_beginning_of_noise_of_many(law: Literal["uniform", "gaussian"]) -> None:
    """So that a source which reads one coordinate need not know how many a mask has."""
    rows = (draws.derive_seed(1, Purpose.PAIR, torch.arange(5)), torch.arange(5), torch.arange(5) % 2)
    whole = draws.noise(*rows, dim=10, law=law)
    assert all(torch.equal(draws.noise(*rows, dim=dim, law=law), whole[:, :dim]) for dim in range(1, 10))


def test_settings_name_the_source_of_samples() -> None:
    model, named = small_model(), "tests.coupling.antithetic:AntitheticSource"
    assert SOURCES.get(named) is AntitheticSource and SOURCES.get("counter") is CounterSource
    usual = draw_samples(model, EvaluationConfig(samples=8), LENGTH, 4, seed=1)
    other = draw_samples(model, EvaluationConfig(samples=8, source=named), LENGTH, 4, seed=1)
    assert not torch.equal(usual, other)
    seeds = draws.derive_seed(1, Purpose.SAMPLE, torch.arange(8))
    start_BL = torch.full((8, LENGTH), model.mask_id)
    assert torch.equal(other, sample(model, start_BL, seeds, 4, source=AntitheticSource()).tokens_BL)


def test_a_source_that_is_not_there_is_refused() -> None:
    for section in (CouplingConfig, EvaluationConfig):
        with pytest.raises(ValueError, match="source is 'countr': did you mean counter"):
            section(source="countr")
    with pytest.raises(ValueError, match="source is 'tests.nowhere:X', which cannot be imported"):
        draw_samples(small_model(), EvaluationConfig(samples=1, source="tests.nowhere:X"), LENGTH, 4, seed=1)


def test_a_source_identifies_a_result_where_it_is_not_the_usual_one() -> None:
    """Results that were there before sources had names keep their folders."""
    for section in (CouplingConfig, EvaluationConfig):
        usual, other = (identifying_settings(section(source=name)) for name in ("counter", "my.file:Source"))
        assert "source" not in usual and "metrics" not in usual
        assert other == usual | {"source": "my.file:Source"}
