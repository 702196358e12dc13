"""How tensor parallel cuts each parameter: by name, as pure functions of tensors, so that files can be cut and joined.

qkv rows are packed (three, head, width): each of the three is cut alone, which gives every rank whole heads.
Embedding and head are cut by vocabulary rows, padded to a multiple of the ranks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """A dimension that is divided among ranks."""

    dim: int
    """Which dimension."""
    blocks: int = 1
    """Equal blocks along it that are each divided: 3 for qkv."""


_CUTS = {
    r"vocab_embed\.embedding|output_layer\.linear\.(weight|bias)": Cut(0),
    r"blocks\.\d+\.attn_qkv\.weight": Cut(0, blocks=3),
    r"blocks\.\d+\.mlp\.0\.(weight|bias)|vocab_embed\.imdm_mlp\.0\.(weight|bias)": Cut(0),
    r"blocks\.\d+\.(attn_out|mlp\.2)\.weight|vocab_embed\.imdm_mlp\.2\.weight": Cut(1),
}


def cut_of(name: str) -> Cut | None:
    """How a parameter is cut; None if every rank holds all of it."""
    return next((cut for pattern, cut in _CUTS.items() if re.fullmatch(pattern, name)), None)


def share(full: Tensor, cut: Cut | None, rank: int, ranks: int) -> Tensor:
    """The part of a full parameter that belongs to a rank; the last parts are padded with zeros where it must be."""
    if cut is None or ranks == 1:
        return full
    lacking = -full.shape[cut.dim] % (ranks * cut.blocks)
    if lacking:
        assert cut.blocks == 1, "only vocabulary rows may be padded"
        full = F.pad(full.movedim(cut.dim, -1), (0, lacking)).movedim(-1, cut.dim)
    return torch.cat([block.chunk(ranks, dim=cut.dim)[rank] for block in full.chunk(cut.blocks, dim=cut.dim)], cut.dim)


def join(parts: list[Tensor], cut: Cut | None, shape: list[int]) -> Tensor:
    """The full parameter of a given shape from the parts of all ranks; padding is dropped."""
    if cut is None or len(parts) == 1:
        return parts[0]
    blocks = zip(*(part.chunk(cut.blocks, dim=cut.dim) for part in parts), strict=True)
    full = torch.cat([piece for block in blocks for piece in block], dim=cut.dim)
    return full.narrow(cut.dim, 0, shape[cut.dim])
