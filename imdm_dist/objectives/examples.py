"""The stream of training examples: step and sample index in, masked micro-batches out.

A step's examples are a function of (run seed, step) alone. Ranks and micro-batches only cut it.

Shape suffixes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.coupling import Coupling
from imdm_dist.data import Order, TokenFile
from imdm_dist.draws import Purpose
from imdm_dist.objectives.batch import MaskedBatch, build_batch, draw_mask, stratified_time


@dataclass(frozen=True)
class Cut:
    """Which part of the global batch is made here, and in what pieces."""

    global_batch: int
    first: int
    """Place of this rank's first example in the global batch."""
    count: int
    """Examples of this rank."""
    micro_batch: int
    """Examples in one forward pass."""

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(first, count) of each micro-batch."""
        return [(self.first + at, self.micro_batch) for at in range(0, self.count, self.micro_batch)]


def cut_batch(global_batch: int, micro_batch: int, rank: int = 0, world: int = 1) -> Cut:
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
    return Cut(global_batch, rank * count, count, micro_batch)


class DataExamples:
    """Examples from packed text, for the teacher and for SDTT.

    Args:
        count_masked: divide by the masked tokens of the global batch (SDTT) instead of by all (NELBO).
    """

    def __init__(self, data: TokenFile, seed: int, cut: Cut, count_masked: bool) -> None:
        self.data, self.cut, self.count_masked = data, cut, count_masked
        self.order, self.seed = Order(data.rows, seed), seed

    def step(self, step: int) -> list[MaskedBatch]:
        """Micro-batches of optimizer step `step`, on the host."""
        cut, length = self.cut, self.data.length
        first = step * cut.global_batch
        # With count_masked every rank draws the masks of the whole global batch: cheaper than agreeing on a sum.
        low, high = (0, cut.global_batch) if self.count_masked else (cut.first, cut.first + cut.count)
        draw_seed_B = draws.derive_seed(self.seed, Purpose.EXAMPLE, torch.arange(first + low, first + high))
        time_B = stratified_time(draw_seed_B, low, cut.global_batch)
        masked_BL = draw_mask(draw_seed_B, time_B, length)
        total = float(masked_BL.sum()) if self.count_masked else float(cut.global_batch * length)
        batches = []
        for piece, count in cut.pieces:
            here = slice(piece - low, piece - low + count)
            clean_BL = self.data.take(self.order.rows_of(first + piece, count))
            seed_B = draw_seed_B[here]
            batches.append(
                build_batch(clean_BL, masked_BL[here], time_B[here], seed_B, seed_B, self.data.mask_id, max(total, 1.0))
            )
        return batches


class CouplingExamples:
    """Examples from a coupling, for ReDi: the mask noise of a pair is the pair's own, in every epoch.

    Args:
        redraw_noise: the control experiment that gives a pair fresh noise every time instead.
    """

    def __init__(self, coupling: Coupling, seed: int, cut: Cut, redraw_noise: bool) -> None:
        self.coupling, self.cut, self.redraw_noise = coupling, cut, redraw_noise
        self.order, self.seed = Order(len(coupling), seed), seed

    def step(self, step: int) -> list[MaskedBatch]:
        """Micro-batches of optimizer step `step`, on the host."""
        first = step * self.cut.global_batch
        return [self._batch(first, piece, count) for piece, count in self.cut.pieces]

    def _batch(self, first: int, piece: int, count: int) -> MaskedBatch:
        coupling = self.coupling
        pair = coupling.take(self.order.rows_of(first + piece, count))
        draw_seed_B = draws.derive_seed(self.seed, Purpose.EXAMPLE, torch.arange(first + piece, first + piece + count))
        masked_BL, time_B = self._corrupt(pair["start_KL"], pair["time_K"], draw_seed_B, piece)
        seed_B = draw_seed_B if self.redraw_noise else pair["seed_K"]
        total = float(self.cut.global_batch * coupling.length)
        return build_batch(pair["result_KL"], masked_BL, time_B, seed_B, draw_seed_B, coupling.mask_id, total)

    def _corrupt(self, start_BL: Tensor, time_B: Tensor, draw_seed_B: Tensor, piece: int) -> tuple[Tensor, Tensor]:
        """What is masked, and at what time: as stored (perturbed), or drawn between start and result (plain)."""
        masked_BL = start_BL == self.coupling.mask_id
        if self.coupling.plan["kind"] == "perturbed":
            return masked_BL, time_B
        time_B = stratified_time(draw_seed_B, piece, self.cut.global_batch)
        return masked_BL & draw_mask(draw_seed_B, time_B, self.coupling.length), time_B
