"""Self-distillation through time (SDTT, arXiv 2410.21035): two teacher steps become one student step.

The teacher rolls two ancestral steps from x_t, of size dt, on the student's own x_t and mask noise.
A position's target is the teacher's distribution at the step that reveals it; positions that neither
step reveals take the second step's. Targets are never stored as distributions: the teacher's *hidden
state* that decides a row is, and both heads run inside one chunk of rows.

Times are t and t - dt (as the method is stated; the released code computes others).

Shape suffixes: B batch, L length, M masked rows, R rows, D hidden width, A sequences that changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config import schema
from imdm_dist.config.setting import NoisePolicy, Weights, require
from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.device import send
from imdm_dist.diffusion.draw_source import CounterSource, draw_tokens
from imdm_dist.diffusion.redraw import redraw_noise
from imdm_dist.diffusion.schedule import EPSILON, alpha
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone, MaskedRows
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.examples import BatchSlice, DataExamples
from imdm_dist.objectives.objective import Costs, NamedTensors, Objective, StreamedTensors
from imdm_dist.objectives.row_loss import Divergence, divergence_loss, sum_over_rows


@dataclass(frozen=True, kw_only=True)
class SdttConfig(ObjectiveConfig):
    """Self-distillation through time (SDTT)."""

    kind: str = "sdtt"
    divergence: Divergence = "reverse_kl"
    """reverse_kl is KL(student || teacher); mse is on log-probabilities."""
    rounds: int = 7
    """Rounds; each doubles the step and makes the student the next teacher."""
    steps_per_round: int = 10_000
    """Optimizer steps in a round; train.steps is then rounds * steps_per_round."""
    grid: int = 1024
    """The first round's step is 1/grid."""
    noise_policy: NoisePolicy = "fixed"
    """Mask noise inside the teacher's two-step rollout."""
    teacher_weights: Weights = "raw"
    """Which weights of the student become the teacher at a round's end (the authors: raw)."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"objective.rounds is {self.rounds}: set it to 1 or more")
        require(self.steps_per_round >= 1, f"objective.steps_per_round is {self.steps_per_round}: set it to 1 or more")
        require(
            self.grid >= 2**self.rounds,
            f"objective.grid={self.grid} cannot be halved objective.rounds={self.rounds} times: raise it",
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of all rounds."""
        return self.rounds * self.steps_per_round

    def round_of(self, step: int) -> int:
        """The round that optimizer step `step`, counted from 0, is in."""
        return min(step // self.steps_per_round, self.rounds - 1)

    def dt(self, number: int) -> float:
        """The teacher's step in round `number`."""
        return 2.0**number / self.grid


class Sdtt(Objective):
    """SDTT: after each round the student becomes the teacher and the step doubles."""

    Config = SdttConfig
    needs_teacher = True

    def __init__(self, config: SdttConfig, chunk_rows: int, teacher: Backbone | None = None) -> None:
        super().__init__(config, chunk_rows, teacher)
        assert teacher is not None
        self.config = config
        self.teacher = teacher.eval().requires_grad_(False)
        self.round = 0

    @classmethod
    def steps(cls, config: schema.Config) -> int:
        """See `Objective`."""
        return _settings(config).steps

    @classmethod
    def check(cls, config: schema.Config) -> None:
        """See `Objective`."""
        steps = _settings(config).steps
        require(
            config.train.steps in (0, steps),
            f"train.steps={config.train.steps}, but SDTT takes objective.rounds * objective.steps_per_round = {steps}: "
            "leave train.steps at 0",
        )

    @classmethod
    def examples(cls, config: schema.Config, part: BatchSlice, source: Any) -> DataExamples:
        """See `Objective`; the loss is a mean over masked tokens."""
        return DataExamples(source, config.train.seed, part, count_masked=True)

    @classmethod
    def costs(cls, config: schema.Config) -> Costs:
        """See `Objective`."""
        settings = _settings(config)
        return Costs(teacher_passes=1 + second_pass_share(settings, config.data.length), heads=2)

    def prepare(self, batch: MaskedBatch, step: int) -> TaughtBatch:
        """Plan the teacher's steps."""
        config = self.config
        return taught(batch, config.dt(config.round_of(step)), config.noise_policy)

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """See `sdtt`."""
        assert isinstance(batch, TaughtBatch)
        return sdtt(model, self.teacher, batch, self.config.divergence, self.chunk_rows)

    def end_step(self, done: int, weights: Callable[[Weights], StreamedTensors]) -> None:
        """See `Objective`."""
        if done % self.config.steps_per_round == 0:
            self._set_teacher(weights(self.config.teacher_weights))
            self.round = self.config.round_of(done)

    def state(self) -> NamedTensors:
        """The teacher's weights by name; the round follows from the step."""
        return {name: parameter.detach() for name, parameter in self.teacher.named_parameters()}

    def load_state(self, done: int, state: StreamedTensors) -> None:
        """See `Objective`."""
        self._set_teacher(state)
        self.round = self.config.round_of(done)

    def metrics(self) -> dict[str, float]:
        """Round and teacher step."""
        return {"round": self.round, "dt": self.config.dt(self.round)}

    @torch.no_grad()
    def _set_teacher(self, weights: StreamedTensors) -> None:
        parameters = dict(self.teacher.named_parameters())
        for name, tensor in weights:
            parameters[name].copy_(tensor)


def _settings(config: schema.Config) -> SdttConfig:
    assert isinstance(config.objective, SdttConfig)
    return config.objective


@cache
def second_pass_share(config: SdttConfig, length: int) -> float:
    """Share of sequences of `length` tokens for which the teacher runs twice, over all rounds.

    With fixed mask noise these are the sequences in which the first step reveals something: a position is masked and
    revealed with probability (1 - EPSILON) * min(t, dt). With other noise they are all.
    """
    points = 256
    if config.noise_policy != "fixed":
        return 1.0
    total = 0.0
    for number in range(config.rounds):
        dt = config.dt(number)
        times = ((i + 0.5) / points for i in range(points))
        total += sum(1 - (1 - (1 - EPSILON) * min(t, dt)) ** length for t in times) / points
    return total / config.rounds


@dataclass(frozen=True)
class TeacherSteps:
    """What the teacher's two steps reveal, decided on the host before anything is computed."""

    first_R: Tensor
    """Indices of the masked rows that the first step reveals."""
    second: MaskedRows | None
    """Masked rows of the changed sequences at the second step; None if the first step's answer still stands."""
    changed_A: Tensor
    """Sequences whose second step sees another input than the first."""
    slot_M: Tensor
    """Where a row lies in the flattened second pass; meaningful for those of `second_R`."""
    second_R: Tensor
    """Indices of the masked rows whose target is the second step's, and for which that differs from the first's."""
    rollout_seed_M: Tensor
    """Seed of the teacher's token draws."""

    def to(self, device: torch.device) -> TeacherSteps:
        """Copy from the host to `device` without waiting."""
        moved: dict[str, Any] = {
            name: send(part, device) if isinstance(part, Tensor) else part and part.to(device)
            for name, part in vars(self).items()
        }
        return TeacherSteps(**moved)


@dataclass(frozen=True)
class TaughtBatch(MaskedBatch):
    """A micro-batch and what the teacher does with it."""

    teacher: TeacherSteps


def plan_teacher(batch: MaskedBatch, dt: float, noise_policy: NoisePolicy) -> TeacherSteps:
    """Decide on the host what the teacher reveals at its first step, and which sequences need a second pass.

    Args:
        batch: on the host.
        dt: the teacher's step; times below 0 are 0, where everything is revealed.
        noise_policy: mask noise at the second step; with `fixed` an unchanged sequence needs no second pass.
    """
    length = batch.x_BL.shape[1]
    rows = batch.masked
    seed_M = draws.derive_seed(batch.draw_seed_B, Purpose.TEACHER, 0)[rows.flat_M // length]
    time_M = batch.row_time_M()
    next_M = (time_M - dt).clamp(min=0)
    kept_M = (1 - alpha(next_M)) / (1 - alpha(time_M))
    first_M = draws.uniform(seed_M, Purpose.REVEAL, rows.position_M) >= kept_M
    keep = partial(draws.uniform, seed_M, Purpose.KEEP, rows.position_M)
    redraw_M = redraw_noise(rows.redraw_M, rows.redraw_M + 1, time_M, next_M, noise_policy, keep)
    sequence_M = rows.flat_M // length
    changes_M = first_M if noise_policy == "fixed" else torch.ones_like(first_M)
    changed_B = torch.zeros(len(batch.x_BL), dtype=torch.bool).index_put((sequence_M[changes_M],), torch.tensor(True))
    place_B = changed_B.cumsum(0) - 1
    slot_M = place_B[sequence_M].clamp(min=0) * length + rows.position_M
    second_M = changed_B[sequence_M] & ~first_M
    second = MaskedRows(slot_M[second_M], rows.seed_M[second_M], rows.position_M[second_M], redraw_M[second_M])
    return TeacherSteps(
        first_R=first_M.nonzero().squeeze(1),
        second=second if bool(changed_B.any()) else None,
        changed_A=changed_B.nonzero().squeeze(1),
        slot_M=slot_M,
        second_R=second_M.nonzero().squeeze(1),
        rollout_seed_M=seed_M,
    )


def taught(batch: MaskedBatch, dt: float, noise_policy: NoisePolicy) -> TaughtBatch:
    """A micro-batch of the host with the teacher's steps; see `plan_teacher`."""
    return TaughtBatch(**vars(batch), teacher=plan_teacher(batch, dt, noise_policy))


@torch.no_grad()
def teacher_hidden(teacher: Backbone, batch: TaughtBatch) -> Tensor:
    """The teacher's hidden state that decides each masked row, [M, D]."""
    plan = batch.teacher
    h_MD = teacher.hidden(batch.x_BL, batch.masked).flatten(0, 1)[batch.masked.flat_M]
    if plan.second is None:
        return h_MD
    rows = (plan.rollout_seed_M, batch.masked.position_M, batch.masked.redraw_M)
    token_R = draw_tokens(CounterSource(), teacher, h_MD[plan.first_R], *(row_M[plan.first_R] for row_M in rows))
    next_BL = batch.x_BL.clone()
    next_BL.view(-1)[batch.masked.flat_M[plan.first_R]] = token_R
    second_RD = teacher.hidden(next_BL[plan.changed_A], plan.second).flatten(0, 1)[plan.slot_M[plan.second_R]]
    return h_MD.index_copy(0, plan.second_R, second_RD.to(h_MD.dtype))


def sdtt(student: Backbone, teacher: Backbone, batch: TaughtBatch, divergence: Divergence, chunk_rows: int) -> Tensor:
    """This micro-batch's share of the loss: sum of divergences over masked rows, over `batch.total` of them.

    Args:
        student: the model in training.
        teacher: in eval mode; no gradient reaches it.

    Returns:
        float32 scalar, nats per masked token when summed over the global batch.
    """
    target_MD = teacher_hidden(teacher, batch)
    h_MD = student.hidden(batch.x_BL, batch.masked).flatten(0, 1)[batch.masked.flat_M]

    def loss_of_rows(h_RD: Tensor, target_RD: Tensor) -> Tensor:
        return divergence_loss(student, teacher, h_RD, target_RD, divergence)

    return sum_over_rows(loss_of_rows, (h_MD, target_MD), batch.x_BL.numel(), chunk_rows) / batch.total
