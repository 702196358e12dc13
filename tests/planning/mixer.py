"""A family of backbones that is no transformer, by which the planner shows that it knows none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imdm_dist.config.model import ModelConfig
from imdm_dist.model import Backbone, MaskedRows


@dataclass(frozen=True, kw_only=True)
class MixerConfig(ModelConfig):
    """Sizes of the family."""

    family: str = "tests.planning.mixer:Mixer"
    width: int = 48
    depth: int = 4
    length: int = 40


class MixerBlock(nn.Module):
    """Mixes positions by one matrix and channels by a gated product."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.positions = nn.Linear(config.length, config.length)
        self.gate = nn.Linear(config.width, 2 * config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.positions(x_BLD.mT).mT
        gate, value = self.gate(x_BLD).chunk(2, dim=-1)
        out_BLD: Tensor = x_BLD + torch.sigmoid(gate) * value
        return out_BLD


class Mixer(Backbone):
    """The family."""

    Config = MixerConfig
    head_name = "to_tokens.weight"

    def __init__(self, config: MixerConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__(config, vocab_size, mask_id)
        self.table = nn.Embedding(vocab_size, config.width)
        self.make_mask(config.width)
        self.blocks = nn.ModuleList(MixerBlock(config) for _ in range(config.depth))
        self.to_tokens = nn.Linear(config.width, vocab_size)

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        """See `Backbone`."""
        h_BLD = self.with_mask(self.table(x_BL), masked)
        for block in self.blocks:
            h_BLD = block(h_BLD)
        return h_BLD

    def head(self, h_RD: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.vocabulary.rule_out(self.to_tokens(h_RD))
