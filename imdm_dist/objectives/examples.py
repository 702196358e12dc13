"""The stream of training examples: step and sample index in, masked micro-batches out.

A step's examples are a function of (run seed, step) alone. Ranks and micro-batches only divide them.

Shape suffixes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from imdm_dist import draws
from imdm_dist.draws import Purpose
from imdm_dist.objectives.batch import MaskedBatch, build_batch, draw_mask, stratified_time

if TYPE_CHECKING:  # seconds to import, with transformers and pyarrow, which a loss needs not
    from imdm_dist.data import TokenFile


class Examples(Protocol):
    """What an objective learns from, step by step."""

    def step(self, step: int) -> list[MaskedBatch]:
        """Micro-batches of optimizer step `step`, on the host."""
        ...


@dataclass(frozen=True)
class BatchSlice:
    """Which part of the global batch is made here, and in what pieces."""

    global_batch: int
    first: int
    """Place of this rank's first example in the global batch."""
    count: int
    """Examples of this rank."""
    micro_batch: int
    """Examples in one forward pass."""

    @property
    def micro_batches(self) -> list[tuple[int, int]]:
        """(first, count) of each micro-batch."""
        return [(self.first + at, self.micro_batch) for at in range(0, self.count, self.micro_batch)]


def slice_batch(global_batch: int, micro_batch: int, rank: int = 0, world: int = 1) -> BatchSlice:
    """Give `rank` of `world` its share.

    Raises:
        ValueError: the sizes do not divide.
    """
    if global_batch % world:
        below = global_batch - global_batch % world
        near = f"{below} or {below + world}" if below else f"{world}"
        raise ValueError(
            f"train.global_batch={global_batch} is no multiple of the {world} data-parallel ranks: set it to {near}"
        )
    count = global_batch // world
    micro_batch = min(micro_batch or count, count)
    if count % micro_batch:
        raise ValueError(
            f"engine.micro_batch={micro_batch} does not divide the {count} examples of a rank: set it to one of "
            + ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
        )
    return BatchSlice(global_batch, rank * count, count, micro_batch)


class DataExamples:
    """Examples from packed text.

    Args:
        count_masked: divide by the masked tokens of the global batch instead of by all.
    """

    def __init__(self, data: TokenFile, seed: int, part: BatchSlice, count_masked: bool) -> None:
        from imdm_dist.data import RowOrder  # see above

        self.data, self.part, self.count_masked = data, part, count_masked
        self.order, self.seed = RowOrder(data.rows, seed), seed

    def step(self, step: int) -> list[MaskedBatch]:
        """Micro-batches of optimizer step `step`, on the host."""
        part, length = self.part, self.data.length
        first = step * part.global_batch
        # With count_masked every rank draws the masks of the whole global batch: cheaper than agreeing on a sum.
        low, high = (0, part.global_batch) if self.count_masked else (part.first, part.first + part.count)
        draw_seed_B = draws.derive_seed(self.seed, Purpose.EXAMPLE, torch.arange(first + low, first + high))
        time_B = stratified_time(draw_seed_B, low, part.global_batch)
        masked_BL = draw_mask(draw_seed_B, time_B, length)
        total = float(masked_BL.sum()) if self.count_masked else float(part.global_batch * length)
        batches = []
        for piece, count in part.micro_batches:
            here = slice(piece - low, piece - low + count)
            clean_BL = self.data.take(self.order.rows_of(first + piece, count))
            seed_B = draw_seed_B[here]
            batches.append(
                build_batch(clean_BL, masked_BL[here], time_B[here], seed_B, seed_B, self.data.mask_id, max(total, 1.0))
            )
        return batches
