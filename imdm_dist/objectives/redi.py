"""ReDi (Eq. 14 of arXiv 2605.10518): the NELBO on a coupling, each pair under its own mask noise.

Shape suffixes: B batch, K pairs, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config import schema
from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.draws import Purpose
from imdm_dist.objectives.batch import MaskedBatch, build_batch, draw_mask, stratified_time
from imdm_dist.objectives.examples import BatchSlice
from imdm_dist.objectives.nelbo import Nelbo
from imdm_dist.objectives.objective import Costs

if TYPE_CHECKING:
    from imdm_dist.coupling import Coupling


@dataclass(frozen=True, kw_only=True)
class RediConfig(ObjectiveConfig):
    """ReDi: the NELBO on a coupling (Eq. 14)."""

    kind: str = "redi"
    redraw_noise: bool = False
    """Control experiment: fresh noise every epoch instead of the pair's own, which undoes the method."""


class Redi(Nelbo):
    """Eq. 14 on a coupling; no state."""

    Config = RediConfig
    reads_coupling = True

    @classmethod
    def examples(cls, config: schema.Config, part: BatchSlice, source: Any) -> CouplingExamples:
        """See `Objective`."""
        assert isinstance(config.objective, RediConfig)
        return CouplingExamples(source, config.train.seed, part, config.objective.redraw_noise)

    @classmethod
    def costs(cls, config: schema.Config) -> Costs:
        """Those of the NELBO; the times of a perturbed coupling are its pairs' own."""
        return Costs(stratified=config.coupling.kind != "perturbed")


class CouplingExamples:
    """Examples from a coupling: the mask noise of a pair is the pair's own, in every epoch.

    Args:
        redraw_noise: the control experiment that gives a pair fresh noise every time instead.
    """

    def __init__(self, coupling: Coupling, seed: int, part: BatchSlice, redraw_noise: bool) -> None:
        from imdm_dist.data import RowOrder  # seconds to import, with transformers and pyarrow, which a loss needs not

        self.coupling, self.part, self.redraw_noise = coupling, part, redraw_noise
        self.order, self.seed = RowOrder(len(coupling), seed), seed

    def step(self, step: int) -> list[MaskedBatch]:
        """Micro-batches of optimizer step `step`, on the host."""
        first = step * self.part.global_batch
        return [self._batch(first, piece, count) for piece, count in self.part.micro_batches]

    def _batch(self, first: int, piece: int, count: int) -> MaskedBatch:
        coupling = self.coupling
        pair = coupling.take(self.order.rows_of(first + piece, count))
        draw_seed_B = draws.derive_seed(self.seed, Purpose.EXAMPLE, torch.arange(first + piece, first + piece + count))
        masked_BL, time_B = self._corrupt(pair["start_KL"], pair["time_K"], draw_seed_B, piece)
        seed_B = draw_seed_B if self.redraw_noise else pair["seed_K"]
        total = float(self.part.global_batch * coupling.length)
        return build_batch(pair["result_KL"], masked_BL, time_B, seed_B, draw_seed_B, coupling.mask_id, total)

    def _corrupt(self, start_BL: Tensor, time_B: Tensor, draw_seed_B: Tensor, piece: int) -> tuple[Tensor, Tensor]:
        """What is masked, and at what time: as stored (perturbed), or drawn between start and result (plain)."""
        masked_BL = start_BL == self.coupling.mask_id
        if self.coupling.plan["kind"] == "perturbed":
            return masked_BL, time_B
        time_B = stratified_time(draw_seed_B, piece, self.part.global_batch)
        return masked_BL & draw_mask(draw_seed_B, time_B, self.coupling.length), time_B
