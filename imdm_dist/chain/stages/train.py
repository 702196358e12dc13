"""Stage `train`: a training run, of a teacher or of a student by SDTT or ReDi."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from imdm_dist.chain.activity import STALE_S, heartbeat_of
from imdm_dist.chain.problems import StageProblems, largest_vocabulary
from imdm_dist.chain.stage import Stage, StageProgress, input_of
from imdm_dist.checkpoint.format import STATE_BYTES
from imdm_dist.checkpoint.read import find_checkpoint, newest_checkpoint
from imdm_dist.checkpoint.retain import discard_broken
from imdm_dist.config import Config, InputsConfig
from imdm_dist.data.row_format import RowFormat
from imdm_dist.device import default_device
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import hash_json
from imdm_dist.objectives.objective import coupling_readers, objective_of
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.parameters import count_parameters
from imdm_dist.planning.plan import Plan, build_plan
from imdm_dist.planning.plan_text import duration, gigabytes
from imdm_dist.problems import refuse
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.engine import engine_of
from imdm_dist.training.inputs import check_inputs, coupling_misfit, misfits
from imdm_dist.training.loop import train
from imdm_dist.training.setup import total_steps


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """A training run."""

    init: str = input_of("model")
    """Stage whose weights it starts from."""
    coupling: str = input_of("coupling")
    """Stage whose pairs it learns."""

    makes = "model"
    shaping = ("model", "objective", "optimizer", "inputs", "engine.*", "train.*")
    processes = "together"

    def check(self, where: str) -> None:
        super().check(where)
        kind, named = self.config.objective.kind, bool(self.coupling)
        if objective_of(self.config.objective).reads_coupling != named:
            remedy = "name the stage that makes its pairs in"
            if named:
                remedy = f"set objective.kind={' or '.join(coupling_readers())} or leave out"
            raise ValueError(f"{where} has objective.kind={kind}: {remedy} coupling")

    def digest(self, folder: Path) -> str:
        found = newest_checkpoint(folder)
        if found is None or found.step < total_steps(self.config):
            raise ValueError("its last checkpoint is missing")
        return hash_json(found.state["files"])

    def claimed_digest(self, folder: Path) -> str:
        found = find_checkpoint(folder, quick=True)
        if found.step < total_steps(self.config):
            raise ValueError("its last checkpoint is missing")
        return hash_json(found.state["files"])

    def execute(self, folders: Mapping[str, Path], stages: Mapping[str, Stage], workers: int | None) -> None:
        inputs = InputsConfig(
            init=str(folders[self.init]) if self.init else "",
            init_weights=self.config.inputs.init_weights,
            coupling=str(folders[self.coupling]) if self.coupling else "",
        )
        if not train(replace(self.config, inputs=inputs), folders[self.name], moments=False):
            raise SystemExit(EXIT_STOPPED)

    def discard_damaged(self, folder: Path) -> None:
        discard_broken(folder)  # a finished stage has one alone: without it training begins anew

    def progress(self, folder: Path) -> StageProgress | None:
        beat = heartbeat_of(folder)
        if beat is None:
            return None
        left = duration(beat.time_left) if beat.time_left is not None and beat.step < beat.last else ""
        silent = f"no heartbeat for {duration(beat.age)}" if beat.age > STALE_S and not beat.ended else ""
        loss = "" if beat.loss is None else f", loss {beat.loss:.3f}"
        return StageProgress(f"step {beat.step:,} of {beat.last:,}{loss}", left, silent)

    def input_problems(
        self, rows: RowFormat | None, stages: Mapping[str, Stage], problems: StageProblems
    ) -> Iterator[str]:
        if self.init and (init := stages[self.init].record(stages, problems)) and rows:
            what = f"model of stage {self.init}" if stages[self.init].made else "given model"
            for problem in misfits(init, self.config, rows):
                yield f"the {what} {problem}"
        if self.coupling and (pairs := stages[self.coupling].record(stages, problems)) and rows:
            if unlike := coupling_misfit(pairs.tokens, rows):
                yield f"the coupling of stage {self.coupling} {unlike}"

    def check_machines(self, rows: RowFormat | None, world: int, in_job: bool, problems: StageProblems) -> None:
        check_training(self.name, self.config, rows, world or self.config.resources.world, in_job, problems)

    def written_bytes(self, rows: RowFormat) -> float:
        return checkpoint_bytes(self.config, rows)

    def plan(self, stages: Mapping[str, Stage], hardware: Hardware, vocab_size: int | None) -> Plan:
        return build_plan(self.config, hardware, vocab_size)


def check_training(
    stage: str, config: Config, rows: RowFormat | None, world: int, in_job: bool, problems: StageProblems
) -> None:
    """Check a run's steps, divisions and memory."""
    problems.attempt(stage, total_steps, config)
    problems.attempt(stage, engine_of, config.engine)
    if in_job:
        problems.attempt(stage, check_compile, config.engine, default_device())
    # What divides does so for any vocabulary.
    problems.attempt(stage, _check_memory, config, largest_vocabulary(rows) if rows else 2, world, in_job)


def _check_memory(config: Config, vocabulary: int, world: int, in_job: bool) -> None:
    cuda = in_job and torch.cuda.is_available()
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else float("inf")
    plan = build_plan(config, Hardware(gpus=world, memory=memory, device="cuda" if cuda else "cpu"), vocabulary)
    if not plan.fits:
        change = " ".join(f"{name}={value}" for name, value in plan.remedy.settings.items()) if plan.remedy else ""
        raise ValueError(
            f"a rank needs {gigabytes(plan.memory.peak)} GB, its GPU has {gigabytes(memory)} GB: "
            + (f"set {change}" if change else "take more GPUs or a smaller model")
        )


def checkpoint_bytes(config: Config, rows: RowFormat) -> float:
    """Bytes of the checkpoints that a run keeps."""
    whole = count_parameters(config.model, largest_vocabulary(rows)).total
    return float(whole * STATE_BYTES * (config.train.keep_last + 1))


def check_run(config: Config) -> float:
    """Check what a training run on `config.resources` needs, before it is submitted; returns bytes that it will write.

    Raises:
        ValueError, ProblemsError: something is missing or does not fit.
    """
    problems = StageProblems()
    rows = problems.tokens("", config.data)
    problems.attempt("", check_inputs, config)
    check_training("", config, rows, config.resources.world, False, problems)
    refuse(problems.lines())
    assert rows is not None
    return checkpoint_bytes(config, rows)
