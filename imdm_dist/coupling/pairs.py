"""Starts of a coupling's pairs: noise seed, time, and the tokens that the rollout starts from.

Everything about pair number g is a pure function of (coupling seed, g), so a pair is the same
whoever makes it, in whatever batch, shard or order.

Shape suffixes: B batch, L length, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imdm_dist.data.row_order import RowOrder
from imdm_dist.data.token_file import TokenFile
from imdm_dist.diffusion.schedule import alpha
from imdm_dist.draws import Purpose, derive_seed, uniform


@dataclass(frozen=True)
class Starts:
    """The beginnings of some pairs, on the CPU."""

    index_B: Tensor
    """Numbers of the pairs in the coupling, int64."""
    seed_B: Tensor
    """Seeds that all noise of a pair derives from, int64."""
    time_B: Tensor
    """Times t the rollouts start at, float64 in (0, 1]."""
    start_BL: Tensor
    """Tokens x_t, int64, with the mask id where the teacher is to fill in."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Where the beginnings of a coupling's pairs come from.

    With `data` a start is perturbed text: a row of it, each position masked with probability
    1 - alpha_t at t ~ U(0, 1) (arXiv 2605.10518, ReDi; the authors' perturbed rectification). With
    `prompts_PL` pair g starts from prompt g mod P at t = 1. With neither it starts from masks alone.
    """

    seed: int
    length: int
    mask_id: int
    data: TokenFile | None = None
    prompts_PL: Tensor | None = None

    @cached_property
    def _order(self) -> RowOrder:
        assert self.data is not None
        return RowOrder(self.data.rows, self.seed)

    def starts(self, numbers: Sequence[int]) -> Starts:
        """Beginnings of the pairs with these numbers, in the order given."""
        index_B = torch.tensor(numbers, dtype=torch.int64)
        seed_B = derive_seed(self.seed, Purpose.PAIR, index_B)
        time_B = torch.ones(len(numbers), dtype=torch.float64)
        if self.prompts_PL is not None:
            start_BL = self.prompts_PL[index_B % len(self.prompts_PL)].to(torch.int64)
        elif self.data is not None:
            time_B = uniform(seed_B, Purpose.TIME, 0)
            text_BL = self.data.take([int(self._order.rows_of(number, 1)[0]) for number in numbers])
            draw_BL = uniform(seed_B[:, None], Purpose.MASK, torch.arange(self.length))
            start_BL = text_BL.masked_fill(draw_BL < 1 - alpha(time_B)[:, None], self.mask_id)
        else:
            start_BL = torch.full((len(numbers), self.length), self.mask_id, dtype=torch.int64)
        return Starts(index_B, seed_B, time_B, start_BL)
