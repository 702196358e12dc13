"""Mask embeddings: what is added to the mask token's embedding at masked positions, and the keys of its noise.

A mask embedding gives an *offset* to the embedding E(m) of the mask token, for masked positions
alone, whatever looked that embedding up. All offsets start at zero, so a model whose mask is replaced
computes the same function as before (arXiv 2605.10518, Sec. 4.2). Its kinds are the files of `masks/`.

Shape suffixes: B batch, L length, M masked positions, D hidden width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imdm_dist.config.model import MaskConfig
from imdm_dist.device import send_all
from imdm_dist.model.cuts import Cut
from imdm_dist.registry import MASKS


@dataclass(frozen=True)
class MaskedRows:
    """The masked positions of a batch, and the keys of their noise; all int64 [M], on one device."""

    flat_M: Tensor
    """Index into the flattened [B * L] batch."""
    seed_M: Tensor
    """Seed of the sequence."""
    position_M: Tensor
    """Position in the sequence."""
    redraw_M: Tensor
    """How the noise at this position was last redrawn; 0 is the noise a rollout starts from."""

    def to(self, device: torch.device) -> MaskedRows:
        """The same rows, of the host, on `device`, copied without waiting."""
        return send_all(self, device)


def masked_rows(masked_BL: Tensor, seed_B: Tensor, redraw_BL: Tensor | None = None) -> MaskedRows:
    """Keys of the positions where `masked_BL` (bool) holds. On a GPU this waits for the device: call it on the host."""
    length = masked_BL.shape[1]
    flat_M = masked_BL.flatten().nonzero().squeeze(1)
    redraw_M = torch.zeros_like(flat_M) if redraw_BL is None else redraw_BL.flatten()[flat_M]
    return MaskedRows(flat_M, seed_B[flat_M // length], flat_M % length, redraw_M)


class MaskEmbedding(nn.Module, ABC):
    """A kind of mask; one is made of `(config, hidden_dim)`."""

    cuts: Mapping[str, Cut] = {}
    """How tensor parallel divides its parameters, by name; the others are whole on every rank."""

    @abstractmethod
    def offset(self, rows: MaskedRows) -> Tensor:
        """Offsets to E(m), [M, D]."""

    @classmethod
    def deduce(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Settings of a published mask of this kind whose parameters these are, by name; None if they are no such."""
        return None

    def add_to(self, h_BLD: Tensor, masked: MaskedRows | None) -> Tensor:
        """Token embeddings with the offsets added at masked positions, [B, L, D]."""
        assert masked is not None, "a stochastic mask needs the keys of its noise"
        offset_MD = self.offset(masked).to(h_BLD.dtype)
        return h_BLD.flatten(0, 1).index_add(0, masked.flat_M, offset_MD).view_as(h_BLD)


def build_mask(config: MaskConfig, hidden_dim: int) -> MaskEmbedding:
    """The mask embedding that `config` describes."""
    made: MaskEmbedding = MASKS.get(config.kind)(config, hidden_dim)
    return made


def deduce_mask(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of the section model.mask for a mask whose parameters these are, by name; without any the default's."""
    found = ((kind, MASKS.get(kind).deduce(tensors)) for kind in MASKS.names)
    return next(({"kind": kind, **settings} for kind, settings in found if settings), {"kind": MASKS.names[0]})
