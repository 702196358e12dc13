"""An objective as the train loop sees it: a loss on a micro-batch, and state that moves with the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from imdm_dist.config.names import Weights
from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.model import Backbone
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.nelbo import nelbo
from imdm_dist.objectives.sdtt import sdtt

NamedTensors = dict[str, Tensor]
StreamedTensors = Iterable[tuple[str, Tensor]]
"""Named tensors, one at a time: all of them together may not fit."""


class Objective(Protocol):
    """What the loop calls, in this order: `loss` for each micro-batch of a step, then `end_step`."""

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """Share of the loss of a micro-batch that lies on the host."""
        ...

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        """Move the state on after `done` steps in all."""
        ...

    def state(self) -> NamedTensors:
        """Tensors a checkpoint must hold to go on exactly."""
        ...

    def load_state(self, done: int, state: StreamedTensors) -> None:
        """Take the state of a checkpoint at `done` steps."""
        ...

    def metrics(self) -> dict[str, float]:
        """What to log beside the loss."""
        ...


class NelboObjective:
    """Eq. 5 on data, Eq. 14 on a coupling; no state."""

    def __init__(self, chunk_rows: int) -> None:
        self.chunk_rows = chunk_rows

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """See `Objective`."""
        return nelbo(model, batch.to(model.device), self.chunk_rows)

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        """Nothing moves."""

    def state(self) -> NamedTensors:
        """Nothing to hold."""
        return {}

    def load_state(self, done: int, state: StreamedTensors) -> None:
        """Nothing to take."""

    def metrics(self) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}


class SdttObjective:
    """SDTT: after each round the student becomes the teacher and the step doubles.

    Args:
        teacher: a copy of the student before the first step, split as the student is; it is taken over.
    """

    def __init__(self, config: ObjectiveConfig, teacher: Backbone, chunk_rows: int) -> None:
        self.config, self.chunk_rows = config, chunk_rows
        self.teacher = teacher.eval().requires_grad_(False)
        self.round = 0

    @property
    def dt(self) -> float:
        """The teacher's step in this round."""
        return 2.0**self.round / self.config.grid

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """See `Objective`."""
        config = self.config
        return sdtt(model, self.teacher, batch, self.dt, config.divergence, config.noise_policy, self.chunk_rows)

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        """See `Objective`."""
        if done % self.config.steps_per_round == 0:
            self._set_teacher(weights(self.config.teacher_weights))
            self.round = self._round_after(done)

    def state(self) -> NamedTensors:
        """The teacher's weights by name; the round follows from the step."""
        return {name: parameter.detach() for name, parameter in self.teacher.named_parameters()}

    def load_state(self, done: int, state: StreamedTensors) -> None:
        """See `Objective`."""
        self._set_teacher(state)
        self.round = self._round_after(done)

    def metrics(self) -> dict[str, float]:
        """Round and teacher step."""
        return {"round": self.round, "dt": self.dt}

    def _round_after(self, done: int) -> int:
        return min(done // self.config.steps_per_round, self.config.rounds - 1)

    @torch.no_grad()
    def _set_teacher(self, weights: StreamedTensors) -> None:
        parameters = dict(self.teacher.named_parameters())
        for name, tensor in weights:
            parameters[name].copy_(tensor)


def build_objective(config: ObjectiveConfig, teacher: Backbone | None, chunk_rows: int) -> Objective:
    """The objective that `config` names; SDTT wants a teacher."""
    if config.kind != "sdtt":
        return NelboObjective(chunk_rows)
    assert teacher is not None
    return SdttObjective(config, teacher, chunk_rows)
