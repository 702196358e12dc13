"""A second family of backbones: a plain pre-norm transformer with learned positions, and names and settings of its own.

Nothing in the house knows it; `model.family=tests.model.second_family:Tiny` is all that names it.

Shape suffixes: B batch, L length, D hidden width, H heads, E head width, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imdm_dist.config import ModelConfig, require
from imdm_dist.model import Backbone, MaskedRows
from imdm_dist.model.cuts import Cut
from imdm_dist.model.layers import LayerNorm, attention


@dataclass(frozen=True, kw_only=True)
class TinyConfig(ModelConfig):
    """A transformer of the simplest kind."""

    family: str = "tests.model.second_family:Tiny"
    hidden_dim: int = 16
    """Width of the residual stream."""
    n_blocks: int = 2
    """Transformer blocks."""
    attention_groups: int = 2
    """Attention heads."""
    longest: int = 32
    """Positions that have an embedding."""

    divided_by = "attention_groups"

    def __post_init__(self) -> None:
        require(
            self.hidden_dim % self.attention_groups == 0,
            f"model.hidden_dim={self.hidden_dim} is no multiple of model.attention_groups={self.attention_groups}",
        )


class TinyBlock(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.width = dim // config.attention_groups
        self.before_attention, self.before_mlp = LayerNorm(dim), LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.mix = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, h_BLD: Tensor) -> Tensor:
        x_BLD = self.before_attention(h_BLD).to(self.query.weight.dtype)
        parts = (layer(x_BLD).unflatten(-1, (-1, self.width)) for layer in (self.query, self.key, self.value))
        q_BHLE, k_BHLE, v_BHLE = (part_BLHE.transpose(1, 2) for part_BLHE in parts)
        h_BLD = h_BLD + self.mix(attention(q_BHLE, k_BHLE, v_BHLE).transpose(1, 2).flatten(2))
        x_BLD = self.before_mlp(h_BLD).to(self.up.weight.dtype)
        out_BLD: Tensor = h_BLD + self.down(nn.functional.gelu(self.up(x_BLD)))
        return out_BLD


class Tiny(Backbone):
    """See `Backbone`."""

    Config = TinyConfig
    cuts = {
        r"words|unembed\.weight": Cut(0),
        r"blocks\.\d+\.(query|key|value|up)\.(weight|bias)": Cut(0),
        r"blocks\.\d+\.(mix|down)\.weight": Cut(1),
    }
    mask_name = "noise"

    def __init__(self, config: TinyConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__(config, vocab_size, mask_id)
        self.words = nn.Parameter(0.1 * torch.randn(vocab_size, config.hidden_dim))
        self.places = nn.Parameter(0.1 * torch.randn(config.longest, config.hidden_dim))
        self.make_mask(config.hidden_dim)
        self.blocks = nn.ModuleList(TinyBlock(config) for _ in range(config.n_blocks))
        self.last = LayerNorm(config.hidden_dim)
        self.unembed = nn.Linear(config.hidden_dim, vocab_size, bias=False)

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        """See `Backbone`."""
        h_BLD = self.with_mask(self.vocabulary.embed(x_BL, self.words), masked) + self.places[: x_BL.shape[1]]
        for block in self.blocks:
            h_BLD = block(h_BLD)
        return h_BLD

    def head(self, h_RD: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.vocabulary.rule_out(self.unembed(self.last(h_RD).to(self.unembed.weight.dtype)))
