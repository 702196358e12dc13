"""The finite mask: one of a number of learned rows (arXiv 2605.10518, Table 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imdm_dist import draws
from imdm_dist.config.model import MaskConfig
from imdm_dist.model.mask_embedding import MaskedRows, MaskEmbedding


class FiniteMask(MaskEmbedding):
    """E(m) + one of n_states rows, chosen uniformly at every draw."""

    def __init__(self, config: MaskConfig, hidden_dim: int) -> None:
        super().__init__()
        self.n_states = config.n_states
        self.states = nn.Parameter(torch.zeros(config.n_states, hidden_dim))

    def state(self, rows: MaskedRows) -> Tensor:
        """Which state each row has, int64 [M]."""
        return draws.integer(rows.seed_M, draws.Purpose.NOISE, rows.position_M, rows.redraw_M, self.n_states)

    def offset(self, rows: MaskedRows) -> Tensor:
        """Offsets to E(m), [M, D]."""
        return nn.functional.embedding(self.state(rows), self.states)
