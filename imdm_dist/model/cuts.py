"""How tensor parallel divides a parameter, as pure functions of tensors, so that files can be divided and joined too.

Which parameter is divided along which dimension is said by its family, and by its mask.
"""

from __future__ import annotations

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
