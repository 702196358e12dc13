"""What can be known to go wrong before hours are spent: looked for in the first seconds, all of it, and said at once.

Records and headers are read, and no weight: a chain's last stage is looked at as closely as its first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from imdm_dist.chain.chain import Chain, Stage
from imdm_dist.chain.inputs import Inputs, evaluator_problems
from imdm_dist.cli import in_a_line
from imdm_dist.config import Config
from imdm_dist.config.data import DataConfig
from imdm_dist.data.tokens import Tokens, tokens_of
from imdm_dist.device import default_device
from imdm_dist.planning.parameters import count_parameters
from imdm_dist.planning.plan import Hardware, build_plan, plan_coupling
from imdm_dist.planning.text import gigabytes
from imdm_dist.problems import ProblemsError, refuse
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.engine import engine_of
from imdm_dist.training.inputs import check_inputs, coupling_tokens, given_model
from imdm_dist.training.setup import total_steps

STATE_BYTES = 16
"""Bytes of a parameter in a checkpoint: weights, average and two moments in float32."""
WEIGHT_BYTES = 4
"""Bytes of a parameter of an evaluator."""
ID_BYTES = 4
"""Bytes of a token of a sample in an evaluation."""


def preflight(chain: Chain, stages: Sequence[Stage], root: Path, world: int = 0, in_job: bool = False) -> None:
    """Check what stages need: text, tokenizers, models, couplings, evaluators, divisions, memory and disk.

    Args:
        world: processes that share a stage; 0 takes each stage's own resources.
        in_job: this is where the work will be done: its GPUs count.

    Raises:
        ValueError, ProblemsError: something is missing or does not fit: for each problem a line that names the
            stages, the cause and the remedy. Nothing has been written.
    """
    inputs = Inputs(chain)
    needed = 0.0
    for stage in stages:
        rows = inputs.check(stage)
        if stage.kind == "train":
            for problem in training_problems(stage.config, rows, world or stage.config.resources.world, in_job):
                inputs.say(stage.name, problem)
        needed += _bytes(stage, rows)
    refuse([*inputs.problems(), *_problems(lambda: check_folder(root, needed))])


def check_agreement(chain: Chain, stages: Sequence[Stage]) -> None:
    """Check once more what stages start from, when the data are there and all of their tokens are known.

    Raises:
        ValueError, ProblemsError: as `preflight`.
    """
    inputs = Inputs(chain)
    for stage in stages:
        inputs.check(stage)
    refuse(inputs.problems())


def check_run(config: Config) -> float:
    """Check what a training run on `config.resources` needs, before it is submitted; returns bytes that it will write.

    Raises:
        ValueError, ProblemsError: something is missing or does not fit.
    """
    lines = _problems(lambda: check_inputs(config))
    rows = None
    try:
        rows = tokens_of(config.data)
    except (ValueError, OSError) as error:
        lines.append(in_a_line(error))
    refuse([*lines, *training_problems(config, rows, config.resources.world, in_job=False)])
    assert rows is not None
    return _checkpoint_bytes(config, rows)


def check_evaluation(
    config: Config, models: Mapping[str, Path], evaluator: str | None, reference: str | None = None
) -> None:
    """Check what a table of models needs, before any of them draws a sample; see `evaluate`.

    Args:
        models: runs by their names in the table.
        evaluator: a folder or a hub name; None for a table without Gen. PPL.
        reference: folder of the coupling that all are compared with.

    Raises:
        ValueError, ProblemsError: a model, the evaluator or the coupling is missing, cut off or does not fit the data.
    """
    lines: list[str] = []
    rows = None
    try:
        rows = tokens_of(config.data)
    except (ValueError, OSError) as error:
        lines.append(in_a_line(error))
    for name, folder in models.items():
        try:
            record = given_model(folder, f"--model {name}", config.evaluation.weights)
        except (ValueError, OSError) as error:
            lines.append(in_a_line(error))
            continue
        if rows and (problem := record.tokens.unlike(rows)):
            lines.append(f"model {name} {problem}")
    if evaluator:
        lines += evaluator_problems(evaluator, rows)
    if reference:
        lines += _problems(lambda: coupling_tokens(Path(reference)))
    refuse(lines)


def coupling_problems(config: Config, learned: DataConfig, teacher: str | None, place: Path) -> list[str]:
    """What keeps a coupling from being made, seen before any rollout.

    Args:
        learned: data settings of the teacher.
        teacher: its run folder or checkpoint; None is still to be trained.
        place: where the coupling's folder will be.
    """
    lines: list[str] = []
    try:
        given = given_model(Path(teacher), "--teacher", config.coupling.weights) if teacher else None
        if config.coupling.kind == "perturbed":  # the other kind reads no text
            theirs = given.tokens if given else tokens_of(learned)
            if problem := theirs.unlike(tokens_of(config.data)):
                lines.append(f"the teacher {problem}")
    except (ValueError, OSError) as error:
        lines.append(in_a_line(error))
    needed = plan_coupling(config, Hardware(), vocab_size=2).file_bytes  # of any vocabulary
    return lines + _problems(lambda: check_folder(place, needed, "name another folder with --out"))


def _problems(check: Callable[[], object]) -> list[str]:
    """What a check finds, as lines."""
    try:
        check()
    except ProblemsError as error:
        return error.lines
    except (ValueError, OSError) as error:
        return [in_a_line(error)]
    return []


def training_problems(config: Config, rows: Tokens | None, world: int, in_job: bool) -> list[str]:
    """What is wrong with a run's steps, divisions and memory."""
    vocabulary = _ids(rows) if rows else 2  # what divides does so for any vocabulary
    compiler = _problems(lambda: check_compile(config.engine, default_device())) if in_job else []
    memory = _problems(lambda: _check_memory(config, vocabulary, world, in_job))
    engine = _problems(lambda: engine_of(config.engine))
    return [*_problems(lambda: total_steps(config)), *engine, *compiler, *memory]


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


def _ids(rows: Tokens) -> int:
    return rows.vocab_size or rows.most


def _bytes(stage: Stage, rows: Tokens | None) -> float:
    """Bytes that a stage will write."""
    config = stage.config
    if rows is None:
        return 0.0
    if stage.kind == "train":
        return _checkpoint_bytes(config, rows)
    if stage.kind == "coupling":
        return plan_coupling(config, Hardware(), _ids(rows)).file_bytes
    if stage.kind == "evaluator":
        width = config.evaluator.hidden_dim
        return float(WEIGHT_BYTES * (12 * config.evaluator.n_blocks * width**2 + _ids(rows) * width))
    table = config.evaluation
    samples = len(stage.models) * len(table.steps) * len(table.seeds) * table.samples
    return float(samples * rows.length * ID_BYTES)


def _checkpoint_bytes(config: Config, rows: Tokens) -> float:
    whole = count_parameters(config.model, _ids(rows)).total
    return float(whole * STATE_BYTES * (config.train.keep_last + 1))


def check_folder(root: Path, needed: float, remedy: str = "name another folder with --root") -> None:
    """Check that runs can be written, and that there is room; nothing is left there.

    Args:
        needed: bytes.
        remedy: how to write elsewhere.

    Raises:
        ValueError: not so.
    """
    there = next(one for one in (root.absolute(), *root.absolute().parents) if one.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".room.", suffix=".tmp") as trial:
            trial.write(b"0" * 4096)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        raise ValueError(f"cannot write in {root} ({error.strerror}): {remedy}") from None
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"the runs will take {gigabytes(needed)} GB, {root} has {gigabytes(free)} GB left: make room, "
            f"lower train.keep_last, or {remedy}"
        )
