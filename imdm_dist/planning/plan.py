"""The plan of a run: parameters, memory, FLOPs and time on given hardware, and what to change where it does not fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from imdm_dist.config.schema import Config
from imdm_dist.config.setting import require
from imdm_dist.objectives.examples import slice_batch
from imdm_dist.objectives.flops import PairCost, StepFlops, pair_cost, step_flops
from imdm_dist.objectives.objective import objective_of
from imdm_dist.parallel.topology import check_topology
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.memory import Memory, rank_memory
from imdm_dist.planning.parameters import Parameters, count_parameters
from imdm_dist.planning.remedy import Remedy, first_remedy
from imdm_dist.planning.vocabulary_size import vocabulary_size

RESULT_BYTES, START_BYTES = 1.75, 1.25
"""Bytes of a token in a shard, compressed: of results, and of starts of which half is masked (LM1B text, with the
tokenizers of BERT and GPT-2; starts that are all masks take next to nothing)."""
PAIR_BYTES = 24
"""Bytes of a pair's number, seed and time."""


@dataclass(frozen=True)
class CouplingPlan:
    """What a coupling needs."""

    pairs: int
    cost: PairCost
    """Means over pairs."""
    seconds: float
    """On all GPUs."""
    gpu_hours: float
    file_bytes: float
    """Bytes of all shards: an estimate."""


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    hardware: Hardware
    vocab_size: int
    parameters: Parameters
    memory: Memory
    tensor_parallel: int
    """Ranks that share a model."""
    data_parallel: int
    """Ranks that see different data."""
    tokens: int
    """Tokens of an optimizer step."""
    micro_batch: int
    """Examples in one forward pass of a rank."""
    micro_batches: int
    """Forward passes in an optimizer step."""
    flops: StepFlops
    step_seconds: float
    steps: int
    """Optimizer steps; 0 where the settings do not say."""
    coupling: CouplingPlan
    remedy: Remedy | None
    """The first change that fits, if the settings as they are do not; None too if none does."""
    notes: tuple[str, ...]
    """What to know beside."""

    @property
    def fits(self) -> bool:
        """Whether a rank has room."""
        return self.memory.peak <= self.hardware.usable

    @property
    def train_seconds(self) -> float:
        """Time of all steps."""
        return self.steps * self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON-able values, with the sums that a reader wants."""
        content = asdict(self)
        content["memory"] |= {"totals": self.memory.totals, "peak": self.memory.peak}
        content["flops"]["total"] = self.flops.total
        return content | {"fits": self.fits, "train_seconds": self.train_seconds}


def build_plan(config: Config, hardware: Hardware, vocab_size: int | None = None) -> Plan:
    """Plan a run; nothing is started, read or allocated.

    Args:
        vocab_size: the mask included; None takes it from the data settings.

    Raises:
        ValueError: the settings contradict each other or the hardware; the message names numbers that would work.
    """
    vocab_size = vocabulary_size(config.data) if vocab_size is None else vocab_size
    require(vocab_size >= 2, f"--vocab is {vocab_size}: give 2 or more, the mask included")
    micro_batch, micro_batches = split_batch(config, hardware.gpus)
    memory = rank_memory(config, vocab_size, hardware.gpus, micro_batch, micro_batches, hardware.device)
    remedy = None
    if memory.peak > hardware.usable:
        remedy = first_remedy(config, vocab_size, hardware)
    flops = step_flops(config, vocab_size, micro_batch)
    return Plan(
        hardware=hardware,
        vocab_size=vocab_size,
        parameters=count_parameters(config.model, vocab_size, config.engine.tensor_parallel),
        memory=memory,
        tensor_parallel=config.engine.tensor_parallel,
        data_parallel=hardware.gpus // config.engine.tensor_parallel,
        tokens=config.train.global_batch * config.data.length,
        micro_batch=micro_batch,
        micro_batches=micro_batches,
        flops=flops,
        step_seconds=hardware.seconds(flops.total),
        steps=objective_of(config.objective).steps(config),
        coupling=plan_coupling(config, hardware, vocab_size),
        remedy=remedy,
        notes=tuple(_notes(config, hardware)),
    )


def plan_coupling(config: Config, hardware: Hardware, vocab_size: int) -> CouplingPlan:
    """Plan the rollouts of config.coupling by a teacher of config.model."""
    coupling, length = config.coupling, config.data.length
    cost = pair_cost(config.model, coupling, vocab_size, length)
    seconds = hardware.seconds(coupling.pairs * cost.flops)
    token_bytes = RESULT_BYTES + (START_BYTES if coupling.kind == "perturbed" else 0.0)
    return CouplingPlan(
        pairs=coupling.pairs,
        cost=cost,
        seconds=seconds,
        gpu_hours=seconds * hardware.gpus / 3600,
        file_bytes=coupling.pairs * (PAIR_BYTES + token_bytes * length),
    )


def split_batch(config: Config, world: int) -> tuple[int, int]:
    """Examples in a forward pass of a rank, and how many of these passes make a step.

    Raises:
        ValueError: ranks, heads or batches do not divide; the message names numbers that would work.
    """
    check_topology(world, config.engine.tensor_parallel, config.model)
    ranks = world // config.engine.tensor_parallel
    part = slice_batch(config.train.global_batch, config.engine.micro_batch, 0, ranks)
    return part.micro_batch, len(part.micro_batches)


def with_pairs(config: Config, pairs: int | None) -> Config:
    """The settings with another number of pairs, where one is given."""
    if pairs is None:
        return config
    require(pairs >= 1, f"--pairs is {pairs}: give 1 or more")
    shards = min(config.coupling.shards, pairs)
    return replace(config, coupling=replace(config.coupling, pairs=pairs, shards=shards))


def _notes(config: Config, hardware: Hardware) -> list[str]:
    notes = []
    if config.engine.compile:
        notes.append("engine.compile=true keeps less in forward than is counted here: activations are an upper bound")
    if config.engine.tensor_parallel > hardware.gpus_per_node:
        notes.append(
            f"engine.tensor_parallel={config.engine.tensor_parallel} reaches beyond the {hardware.gpus_per_node} GPUs "
            "of a machine: its sums cross the network twice a block, and the MFU will be lower"
        )
    return notes
