"""The single mask of MDM: the mask token's own embedding, with nothing added."""

from __future__ import annotations

import torch
from torch import Tensor

from imdm_dist.config.model import MaskConfig
from imdm_dist.model.mask_embedding import MaskedRows, MaskEmbedding


class SingleMask(MaskEmbedding):
    """E(m) alone; it has no parameters."""

    def __init__(self, config: MaskConfig, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim

    def offset(self, rows: MaskedRows) -> Tensor:
        """Zeros, [M, D]."""
        return torch.zeros(len(rows.flat_M), self.hidden_dim, device=rows.flat_M.device)

    def add_to(self, h_BLD: Tensor, masked: MaskedRows | None) -> Tensor:
        """The embeddings as they are."""
        return h_BLD
