"""Set-up of a training run: everything is checked and put together before anything is written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imdm_dist.checkpoint.format import checkpoint_paths
from imdm_dist.checkpoint.model import initialise, load_model
from imdm_dist.checkpoint.read import Checkpoint, find_checkpoint, newest_checkpoint
from imdm_dist.config import fixed_settings, from_dict
from imdm_dist.config.schema import Config
from imdm_dist.coupling import Coupling
from imdm_dist.data import Dataset, prepare
from imdm_dist.model import Backbone, build_backbone
from imdm_dist.objectives.examples import BatchSlice, Examples, slice_batch
from imdm_dist.objectives.objective import objective_of
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.engine import engine_of
from imdm_dist.training.inputs import changed_data, check_inputs, check_same_data, describe_changes

_SECTIONS = ("model", "objective", "optimizer", "engine", "train")
"""Sections whose settings count for a run that goes on; data and inputs count by what they hold."""


@dataclass(frozen=True)
class Run:
    """A training run, as a description that nothing changes."""

    config: Config
    folder: Path
    data: Dataset
    batch_slice: BatchSlice
    examples: Examples
    provenance: dict[str, Any]
    """Digests of data, initial weights and coupling."""
    shapes: dict[str, list[int]]
    """Full shape of each parameter."""
    last: int
    """Optimizer steps in all."""
    resume: Checkpoint | None
    """The checkpoint to go on from."""
    moments: bool = True
    """Keep what more steps would need: AdamW's moments in the last checkpoint, and the checkpoints before it."""

    @property
    def done(self) -> int:
        """Steps of that checkpoint; 0 if there is none."""
        return self.resume.step if self.resume else 0


def set_up(
    config: Config, folder: Path, topology: Topology, resume: Checkpoint | None, moments: bool
) -> tuple[Run, Backbone]:
    """Check settings and inputs, and that the checkpoint to go on from is of this run.

    Args:
        resume, moments: see `Run`.

    Returns:
        the run, and its model on the host with the weights of `inputs.init` or random ones.

    Raises:
        ValueError: settings, data, initial weights, coupling or an earlier run in `folder` do not fit.
    """
    last = total_steps(config)
    engine_of(config.engine)
    check_compile(config.engine, topology.device)
    batch_slice = slice_batch(config.train.global_batch, config.engine.micro_batch, topology.dp_rank, topology.dp)
    if resume is not None:
        check_same_data(resume.state["config"]["data"], config.data)
    check_inputs(config)  # before hours of packing
    data = prepare(config.data)
    check_inputs(config)  # the tokenizer may be known only now
    torch.manual_seed(config.train.seed)
    model = build_backbone(config.model, data.train.vocab_size, data.train.mask_id)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    tokenizer = data.tokenizer.fingerprint if data.tokenizer else None
    provenance: dict[str, Any] = {"data": data.train.fingerprint, "tokenizer": tokenizer}
    if config.inputs.init:
        source = load_model(config.inputs.init, config.inputs.init_weights)
        initialise(model, source)
        provenance["init"] = {"weights": source.digest, "kind": source.weights, "step": source.step}
    objective = objective_of(config.objective)
    if objective.reads_coupling:
        coupling = Coupling.open(config.inputs.coupling)
        provenance["coupling"] = coupling.digest
        examples = objective.examples(config, batch_slice, coupling)
    else:
        examples = objective.examples(config, batch_slice, data.train)
    if resume is not None:
        check_resumable(resume.state, config, provenance)
        before = total_steps(from_dict(Config, resume.state["config"]))
        if topology.first and before != last and config.optimizer.schedule != "constant":
            print(
                f"train.steps was {before}, is {last}: from here on the rate is that of a {config.optimizer.schedule} "
                f"run of {last} steps",
                file=sys.stderr,
            )
        if resume.step < last and not resume.names("exp_avg"):
            raise ValueError(
                f"{resume.path} cannot go on to train.steps={last}, for it holds no moments (a chain's finished stage "
                f"or an import): train on in another folder with inputs.init={resume.path.parent}"
            )
    return Run(config, folder, data, batch_slice, examples, provenance, shapes, last, resume, moments), model


def to_resume(resume: str, folder: Path) -> Checkpoint | None:
    """The checkpoint that train.resume means.

    A run that began by `none` or by a path and was cut off goes on from its own checkpoints when it is started again.

    Raises:
        ValueError: there is none where there should be one, or one where there should be none.
    """
    newest = newest_checkpoint(folder)
    if newest is None and checkpoint_paths(folder):
        raise ValueError(
            f"{folder} holds checkpoints, but none that can be read: move them away, or name another folder"
        )
    if resume == "auto":
        return newest
    ours = newest is not None and newest.state["config"]["train"]["resume"] == resume
    if resume != "none":
        given = find_checkpoint(Path(resume))
        return newest if ours and newest is not None and newest.step > given.step else given
    if newest is not None and not ours:
        raise ValueError(f"train.resume=none, but {folder} holds checkpoints: remove them, or use another folder")
    return newest


def total_steps(config: Config) -> int:
    """Optimizer steps of a run.

    Raises:
        ValueError: train.steps and the objective contradict each other.
    """
    objective = objective_of(config.objective)
    objective.check(config)
    steps = objective.steps(config)
    if steps == 0:
        raise ValueError("train.steps is 0: set it to the number of optimizer steps")
    optimizer = config.optimizer
    if optimizer.schedule != "constant" and optimizer.warmup_steps + optimizer.decay_steps >= steps:
        raise ValueError(
            f"a {optimizer.schedule} run of {steps} steps has no room for optimizer.warmup_steps="
            f"{optimizer.warmup_steps} and optimizer.decay_steps={optimizer.decay_steps}: lower them, or train longer"
        )
    return steps


def check_resumable(state: dict[str, Any], config: Config, provenance: dict[str, Any]) -> None:
    """Check that a checkpoint is of this very run.

    Raises:
        ValueError: its settings or inputs differ in what shapes the result.
    """
    before = from_dict(Config, state["config"])  # settings that came later were as their defaults
    theirs, ours = fixed_settings(before, *_SECTIONS), fixed_settings(config, *_SECTIONS)
    for name, value in ours.items():
        if (was := theirs.get(name)) != value:
            raise ValueError(
                f"the checkpoint of this folder was made with {name}={was}, now it is {value}: "
                "use the old setting, or another folder"
            )
    if state["provenance"] != provenance:
        changed = sorted(name for name in provenance if state["provenance"].get(name) != provenance[name])
        settings = changed_data(state["config"]["data"], config.data) if "data" in changed else {}
        about = f" with {describe_changes(settings)}" if settings else ""
        raise ValueError(
            f"the checkpoint of this folder was made from another {', '.join(changed)}{about}: use another folder"
        )
