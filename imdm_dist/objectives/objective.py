"""An objective, as the other rooms see it: what it learns from, its loss, its state, and what it costs.

An objective is a file beside this one and a line of `imdm_dist.registry`: its settings (`Config`), a class that extends
`Objective`, and what is its own of examples and losses. No other file asks which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from imdm_dist.config import schema
from imdm_dist.config.setting import Weights
from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.model import Backbone
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.examples import BatchSlice, DataExamples, Examples
from imdm_dist.registry import OBJECTIVES

NamedTensors = dict[str, Tensor]
StreamedTensors = Iterable[tuple[str, Tensor]]
"""Named tensors, one at a time: all of them together may not fit."""


@dataclass(frozen=True)
class Costs:
    """What a step costs beside the model's own passes; the defaults are those of one model and its cross-entropy."""

    teacher_passes: float = 0.0
    """Forward passes of a teacher's blocks for each token, mean over the run."""
    heads: int = 1
    """Heads that each masked row goes through: the model's, and a teacher's."""
    stratified: bool = True
    """Whether times are stratified over the global batch; if not, those of a micro-batch are independent."""


class Objective:
    """What a run minimises.

    The loop calls, in this order: `prepare` for each micro-batch of a step, in the thread that makes them while the
    step before runs; `loss` for each; `metrics`; `end_step`.

    Args:
        config: its section, of class `Config`.
        chunk_rows: most rows whose logits exist at a time.
        teacher: where it needs one, a copy of the model before the first step, split as the model is; it is taken over.
    """

    Config: ClassVar[type[ObjectiveConfig]]
    """Its settings."""
    reads_coupling: ClassVar[bool] = False
    """Whether it learns from the pairs of a coupling, not from text."""
    needs_teacher: ClassVar[bool] = False
    """Whether it begins with a copy of the model as its teacher."""

    def __init__(self, config: ObjectiveConfig, chunk_rows: int, teacher: Backbone | None = None) -> None:
        assert (teacher is not None) == self.needs_teacher
        self.chunk_rows = chunk_rows

    @classmethod
    def steps(cls, config: schema.Config) -> int:
        """Optimizer steps of a run; 0 where its settings do not say."""
        return config.train.steps

    @classmethod
    def check(cls, config: schema.Config) -> None:
        """Hold other sections against what the objective needs.

        Raises:
            ValueError: they do not fit.
        """

    @classmethod
    def examples(cls, config: schema.Config, part: BatchSlice, source: Any) -> Examples:
        """The examples of a run.

        Args:
            part: which of them are made here.
            source: what it learns from: a `TokenFile`, or a `Coupling` if `reads_coupling`.
        """
        return DataExamples(source, config.train.seed, part, count_masked=False)

    @classmethod
    def costs(cls, config: schema.Config) -> Costs:
        """What a step costs, for plans and for MFU."""
        return Costs()

    def prepare(self, batch: MaskedBatch, step: int) -> MaskedBatch:
        """Do what `loss` needs done on the host, in another thread than the loop's: nothing that `end_step` changes
        may be read.

        Args:
            batch: on the host.
            step: the optimizer step that it is for, counted from 0.
        """
        return batch

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """Share of the loss of a prepared micro-batch on the model's device, a float32 scalar."""
        raise NotImplementedError

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        """Move the state on after `done` steps in all."""

    def state(self) -> NamedTensors:
        """Tensors a checkpoint must hold to go on exactly."""
        return {}

    def load_state(self, done: int, state: StreamedTensors) -> None:
        """Take the state of a checkpoint at `done` steps."""

    def metrics(self) -> dict[str, float]:
        """What to log beside the loss."""
        return {}


def objective_of(config: ObjectiveConfig) -> type[Objective]:
    """The objective that settings name.

    Raises:
        ValueError: there is none of that name.
    """
    found: type[Objective] = OBJECTIVES.get(config.kind)
    return found


def build_objective(config: schema.Config, teacher: Backbone | None) -> Objective:
    """The objective of a run; `teacher` as in `Objective`."""
    return objective_of(config.objective)(config.objective, config.engine.loss_chunk_rows, teacher)


def coupling_readers() -> list[str]:
    """Names of the registered objectives that learn from a coupling, for messages."""
    return [name for name in OBJECTIVES.names if OBJECTIVES.get(name).reads_coupling]
