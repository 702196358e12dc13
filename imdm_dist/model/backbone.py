"""A backbone, as the other rooms see it: what makes hidden states of tokens, and logits of hidden states.

A family of backbones is a folder beside this file, or any other module, and a line of `imdm_dist.registry`. It says
what of it is divided among tensor-parallel ranks, where its mask embedding is, and how public checkpoints name it; no
other room knows a parameter of it.

Shape suffixes: B batch, L length, D hidden width, R rows, V vocabulary (mask included).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imdm_dist.config.model import ModelConfig
from imdm_dist.model.cuts import Cut
from imdm_dist.model.layers import full_precision
from imdm_dist.model.mask_embedding import MaskedRows, MaskEmbedding, build_mask, masked_rows
from imdm_dist.model.public_checkpoints import PublicFormat
from imdm_dist.model.vocabulary import Vocabulary
from imdm_dist.registry import BACKBONES


class Backbone(nn.Module, ABC):
    """A masked diffusion language model.

    Tensor parallel divides layers that are `nn.Linear`, and tables that `self.vocabulary.embed` looks tokens up in.
    engine.layer_norm is for norms that are `imdm_dist.model.layers.LayerNorm`.

    Args:
        config: its family's settings.
        vocab_size: V, the mask included.
        mask_id: the mask's row: V - 1 for GPT-2, 103 for BERT.
    """

    Config: type[ModelConfig]
    """Its settings: a frozen dataclass whose `family` is the family's name."""
    cuts: Mapping[str, Cut] = {}
    """How tensor parallel divides parameters, by a regular expression of their names; the others are whole on every
    rank. A `Cut(0)` of a linear layer divides its outputs, a `Cut(1)` its inputs; tables and head are cut by rows."""
    mask_name = "mask_embedding"
    """Dotted name of the mask embedding among the modules."""
    blocks: nn.ModuleList
    """Its blocks, each called once in `hidden`: what training compiles and recomputes, one at a time."""
    public: PublicFormat | None = None
    """How checkpoints that others publish have this family; None where imports do not know it."""

    def __init__(self, config: ModelConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.mask_id = config, vocab_size, mask_id
        self.name = "the model"  # what messages call it: the checkpoint, once it is out of one
        self.vocabulary = Vocabulary(vocab_size, mask_id)

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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def logits(self, x_BL: Tensor, seed_B: Tensor, redraw_BL: Tensor | None = None) -> Tensor:
        """Logits at every position, float32 [B, L, V]: for notebooks and small dense references."""
        h_BLD = self.hidden(x_BL, masked_rows(x_BL == self.mask_id, seed_B, redraw_BL))
        return self.head(h_BLD.flatten(0, 1)).float().view(*x_BL.shape, -1)

    # --- the mask embedding

    def make_mask(self, hidden_dim: int) -> None:
        """Put the mask embedding of the settings at `mask_name`; a family's constructor calls this once."""
        parent, _, name = self.mask_name.rpartition(".")
        self.get_submodule(parent).add_module(name, build_mask(self.config.mask, hidden_dim))

    @property
    def mask(self) -> MaskEmbedding:
        """The mask embedding."""
        found = self.get_submodule(self.mask_name)
        assert isinstance(found, MaskEmbedding)
        return found

    def with_mask(self, h_BLD: Tensor, masked: MaskedRows | None) -> Tensor:
        """The residual stream's beginning: token embeddings, with the mask's offset at masked positions.

        Blocks add to it in its own precision, float32 or float64, whatever that of their products.
        """
        return self.mask.add_to(full_precision(h_BLD), masked)

    def is_of_mask(self, parameter: str) -> bool:
        """Whether a parameter is the mask embedding's: a model that starts from other weights may have a new one."""
        return parameter.startswith(f"{self.mask_name}.")

    # --- tensor parallel

    def cut_of(self, parameter: str) -> Cut | None:
        """How a parameter is divided among tensor-parallel ranks; None if every rank holds all of it."""
        if self.is_of_mask(parameter):
            return self.mask.cuts.get(parameter.removeprefix(f"{self.mask_name}."))
        return next((cut for pattern, cut in self.cuts.items() if re.fullmatch(pattern, parameter)), None)


def build_backbone(config: ModelConfig, vocab_size: int, mask_id: int) -> Backbone:
    """A backbone of the family that `config` names, with random weights."""
    made: Backbone = BACKBONES.get(config.family)(config, vocab_size, mask_id)
    return made


def sketch(config: ModelConfig, vocab_size: int, mask_id: int | None = None) -> Backbone:
    """The same without storage, on the meta device: names, shapes and cuts; the mask is the last id if not given."""
    with torch.device("meta"):
        return build_backbone(config, vocab_size, vocab_size - 1 if mask_id is None else mask_id)
