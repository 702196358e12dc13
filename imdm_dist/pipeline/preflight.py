"""What can be known to go wrong before hours are spent: looked for in the first seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from imdm_dist.cli import in_a_line
from imdm_dist.config import Config, from_dict
from imdm_dist.config.model import ModelConfig
from imdm_dist.coupling import Coupling
from imdm_dist.data.text import Split, source_identity
from imdm_dist.device import default_device
from imdm_dist.pipeline.chain import Chain, Stage
from imdm_dist.pipeline.identity import given_state
from imdm_dist.pipeline.runner import find_evaluators
from imdm_dist.planning.plan import Hardware, build_plan, plan_coupling
from imdm_dist.planning.text import gigabytes
from imdm_dist.planning.vocabulary import vocabulary_size
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.setup import total_steps

STATE_BYTES = 16
"""Bytes of a parameter in a checkpoint: weights, average and two moments in float32."""


def preflight(chain: Chain, stages: Sequence[Stage], root: Path, world: int = 0, in_job: bool = False) -> None:
    """Check what stages need: text, tokenizers, given models, evaluators, divisions, memory and disk.

    Args:
        world: processes that share a stage; 0 takes each stage's own resources.
        in_job: this is where the work will be done: its GPUs count.

    Raises:
        ValueError: something is missing or does not fit; the message names the stage, the cause and the remedy.
    """
    find_evaluators(stages, chain)
    needed = 0.0
    for stage in stages:
        ranks = world or stage.config.resources.world
        needed += _named(stage, lambda s=stage, n=ranks: _check(chain, s, n, in_job))  # type: ignore[misc]
    check_folder(root, needed)


def _named(stage: Stage, check: Callable[[], float]) -> float:
    try:
        return check()
    except (ValueError, OSError) as error:
        raise ValueError(f"stage {stage.name}: {in_a_line(error)}") from None


def check_run(config: Config) -> float:
    """Check what a training run on `config.resources` needs, before it is submitted; returns bytes that it will write.

    Raises:
        ValueError: something is missing or does not fit.
    """
    if config.inputs.init:
        check_init(Path(config.inputs.init), config, _check_data(config), "inputs.init")
    if config.objective.kind == "redi" and not config.inputs.coupling:
        raise ValueError("objective.kind=redi trains on a coupling: set inputs.coupling to its folder")
    if config.inputs.coupling:
        Coupling.open(config.inputs.coupling)
    return _check_training(config, config.resources.world, in_job=False)


def _check(chain: Chain, stage: Stage, world: int, in_job: bool) -> float:
    """Check a stage; returns the bytes that it will write."""
    config = stage.config
    if stage.kind == "given":
        given_state(Path(config.inputs.init), f"{stage.name}/inputs.init")
        return 0.0
    vocabulary = _check_data(config)
    if stage.kind == "coupling":
        return plan_coupling(config, Hardware(gpus=world), vocabulary).file_bytes
    if stage.kind != "train":
        return 0.0
    if stage.init and (init := chain.stage(stage.init)).kind == "given":
        check_init(Path(init.config.inputs.init), config, vocabulary, f"{init.name}/inputs.init")
    return _check_training(config, world, in_job)


def _check_data(config: Config) -> int:
    """Check that the text and the tokenizer are there; returns the size of the vocabulary."""
    if config.data.source == "files":
        splits: tuple[Split, Split] = ("train", "valid")
        for split in splits:
            source_identity(config.data, split)
    return vocabulary_size(config.data)


def _check_training(config: Config, world: int, in_job: bool) -> float:
    """Check steps, divisions and memory; returns the bytes of the checkpoints."""
    total_steps(config)
    vocabulary = vocabulary_size(config.data)
    if in_job:
        check_compile(config.engine, default_device())
    cuda = in_job and torch.cuda.is_available()
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else float("inf")
    plan = build_plan(config, Hardware(gpus=world, memory=memory, device="cuda" if cuda else "cpu"), vocabulary)
    if not plan.fits:
        change = " ".join(f"{name}={value}" for name, value in plan.remedy.settings.items()) if plan.remedy else ""
        raise ValueError(
            f"a rank needs {gigabytes(plan.memory.peak)} GB, its GPU has {gigabytes(memory)} GB: "
            + (f"set {change}" if change else "take more GPUs or a smaller model")
        )
    return float(plan.parameters.total * STATE_BYTES * (config.train.keep_last + 1))


def check_init(folder: Path, config: Config, vocabulary: int, setting: str) -> None:
    """Check that a given model fits where training starts from it; weights are not read.

    Raises:
        ValueError: it is not there, or has another size or vocabulary.
    """
    state = given_state(folder, setting)
    given = from_dict(Config, state["config"], where=f"the checkpoint of {setting}")
    theirs, ours = _shape(given.model), _shape(config.model)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"the given model has {name}={theirs[name]}, here it is {value}: set {name}={theirs[name]}"
            )
    if (there := state["model"]["vocab_size"]) != vocabulary:
        raise ValueError(
            f"the given model has {there} ids, data.tokenizer={config.data.tokenizer} has {vocabulary}: "
            f"set data.tokenizer={given.data.tokenizer}"
        )


def _shape(model: ModelConfig) -> dict[str, object]:
    return {
        f"model.{name}": getattr(model, name) for name in ("hidden_dim", "n_blocks", "n_heads", "attention_soft_cap")
    }


def check_folder(root: Path, needed: float, remedy: str = "name another folder with --root") -> None:
    """Check that runs can be written, and that there is room.

    Args:
        needed: bytes.
        remedy: how to write elsewhere.

    Raises:
        ValueError: not so.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".room.", suffix=".tmp") as trial:
            trial.write(b"0" * 4096)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        raise ValueError(f"cannot write in {root} ({error.strerror}): {remedy}") from None
    free = shutil.disk_usage(root).free
    if needed > free:
        raise ValueError(
            f"the runs will take {gigabytes(needed)} GB, {root} has {gigabytes(free)} GB left: make room, "
            f"lower train.keep_last, or {remedy}"
        )
