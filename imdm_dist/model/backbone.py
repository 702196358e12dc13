"""A backbone, as the other rooms see it: what makes hidden states of tokens, and logits of hidden states.

A family of backbones is a folder beside this file and a line of `imdm_dist.registry`; its first is `dit`.

Shape suffixes: B batch, L length, D hidden width, R rows, V vocabulary (mask included).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from imdm_dist.config.model import ModelConfig
from imdm_dist.model.mask_embedding import MaskedRows, masked_rows
from imdm_dist.model.vocabulary import Vocabulary
from imdm_dist.registry import BACKBONES


class Backbone(nn.Module, ABC):
    """A masked diffusion language model.

    Args:
        config: its family's settings.
        vocab_size: V, the mask included.
        mask_id: the mask's row: V - 1 for GPT-2, 103 for BERT.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.mask_id = config, vocab_size, mask_id
        self.name = "the model"  # what messages call it: the checkpoint, once it is out of one
        self.vocabulary = Vocabulary(vocab_size, mask_id)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        """Run the blocks: int64 tokens [B, L] to the residual stream [B, L, D], float32 under any precision."""

    @abstractmethod
    def head(self, h_RD: Tensor) -> Tensor:
        """Logits [R, V] of chosen rows [R, D]; the mask's column never wins."""

    def row_loss(self, h_RD: Tensor, target_R: Tensor, weight_R: Tensor) -> Tensor:
        """Sum over rows of weight * -log p(target), a float32 scalar: where a kernel that fuses it with the head goes.

        Args:
            target_R: int64.
            weight_R: float32.
        """
        return (self.vocabulary.nll(self.head(h_RD), target_R) * weight_R).sum()

    def logits(self, x_BL: Tensor, seed_B: Tensor, redraw_BL: Tensor | None = None) -> Tensor:
        """Logits at every position, float32 [B, L, V]: for notebooks and small dense references."""
        h_BLD = self.hidden(x_BL, masked_rows(x_BL == self.mask_id, seed_B, redraw_BL))
        return self.head(h_BLD.flatten(0, 1)).float().view(*x_BL.shape, -1)


def build_backbone(config: ModelConfig, vocab_size: int, mask_id: int) -> Backbone:
    """A backbone of the family that `config` names, with random weights."""
    made: Backbone = BACKBONES.get("dit")(config, vocab_size, mask_id)
    return made
