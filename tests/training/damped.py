"""An objective of somebody's own that has state: a factor on the loss that follows the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imdm_dist.config.setting import Weights
from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.model import Backbone
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.nelbo import Nelbo
from imdm_dist.objectives.objective import NamedTensors, StreamedTensors


@dataclass(frozen=True, kw_only=True)
class DampedConfig(ObjectiveConfig):
    """A NELBO that counts less from step to step."""

    kind: str = "tests.training.damped:Damped"
    decay: float = 0.75
    """Factor of a step's loss over that of the step before."""


class Damped(Nelbo):
    """See `DampedConfig`."""

    Config = DampedConfig

    def __init__(self, config: DampedConfig, chunk_rows: int, teacher: Backbone | None = None) -> None:
        super().__init__(config, chunk_rows, teacher)
        self.decay, self.factor = config.decay, torch.ones(())

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        return super().loss(model, batch) * self.factor.to(model.device)

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        self.factor = self.factor * self.decay

    def state(self) -> NamedTensors:
        return {"factor": self.factor}

    def load_state(self, done: int, state: StreamedTensors) -> None:
        self.factor = dict(state)["factor"]

    def metrics(self) -> dict[str, float]:
        return {"factor": float(self.factor)}
