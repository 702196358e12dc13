"""The infinite mask of IMDM: noise, mapped by an MLP (arXiv 2605.10518, Eq. 15).

Shape suffixes: M masked positions, D hidden width, K noise dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from imdm_dist import draws
from imdm_dist.config.model import MaskConfig
from imdm_dist.model.cuts import Cut
from imdm_dist.model.mask_embedding import MaskedRows, MaskEmbedding


class InfiniteMask(MaskEmbedding, nn.Sequential):
    """E(m) + MLP(noise): a new mask at every draw.

    Its keys, `0.weight`, `0.bias`, `2.weight` and optionally `2.bias`, are those of the authors' checkpoints.
    """

    cuts = {"0.weight": Cut(0), "0.bias": Cut(0), "2.weight": Cut(1)}

    def __init__(self, config: MaskConfig, hidden_dim: int) -> None:
        first = nn.Linear(config.noise_dim, 4 * hidden_dim)
        super().__init__(first, nn.GELU(), nn.Linear(4 * hidden_dim, hidden_dim, bias=config.output_bias))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.trunc_normal_(first.weight, std=0.02)  # the authors'; a wider one learns rougher maps of the noise
        self.noise_dim, self.law, self.scale = config.noise_dim, config.law, config.scale

    def offset(self, rows: MaskedRows) -> Tensor:
        """Offsets to E(m), [M, D]."""
        noise_MK = draws.noise(rows.seed_M, rows.position_M, rows.redraw_M, self.noise_dim, self.law)
        return self(noise_MK.mul_(self.scale).to(next(self.parameters()).dtype))

    @classmethod
    def deduce(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """See `MaskEmbedding`."""
        if "0.weight" not in tensors:
            return None
        return {"noise_dim": tensors["0.weight"].shape[-1], "output_bias": "2.bias" in tensors}
