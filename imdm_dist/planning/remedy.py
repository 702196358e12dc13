"""Finds the settings that make a run fit into memory: changes are tried from what costs least to what costs most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from imdm_dist.config.schema import Config
from imdm_dist.config.training import EngineConfig
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.memory import rank_memory

FEW_ROWS = 1024
"""A smaller chunk of the loss: still enough rows for a matrix product at full speed."""


@dataclass(frozen=True)
class Remedy:
    """Settings that would do."""

    settings: dict[str, int | bool]
    """What to change, by dotted name."""
    peak: int
    """Bytes of a rank then."""


def first_remedy(config: Config, vocab_size: int, hardware: Hardware) -> Remedy | None:
    """The first change that fits into the memory of a rank; None if none does.

    In this order, each rung with all that were before: fewer rows of logits at a time, a smaller micro-batch,
    recomputation, a higher ZeRO stage, more tensor parallelism, offload.
    """
    for rungs in _ladder(config, hardware):
        if _peak(config, rungs[-1], vocab_size, hardware) > hardware.usable:
            continue  # nor do those that take more
        for engine in rungs:
            if (peak := _peak(config, engine, vocab_size, hardware)) <= hardware.usable:
                new, old = vars(engine), vars(config.engine)
                return Remedy({f"engine.{name}": new[name] for name in new if new[name] != old[name]}, peak)
    return None


def _peak(config: Config, engine: EngineConfig, vocab_size: int, hardware: Hardware) -> int:
    count = config.train.global_batch * engine.tensor_parallel // hardware.gpus
    micro_batch = engine.micro_batch or count
    changed = replace(config, engine=engine)
    return rank_memory(changed, vocab_size, hardware.gpus, micro_batch, count // micro_batch, hardware.device).peak


def _ladder(config: Config, hardware: Hardware) -> Iterator[list[EngineConfig]]:
    """Settings to try, in lists of which the last takes least."""
    engine, world = config.engine, hardware.gpus
    offloads = [engine.offload_optimizer] + [True] * (hardware.device == "cuda" and not engine.offload_optimizer)
    more = (2**power for power in range(1, 10))
    widths = [engine.tensor_parallel] + [
        tp
        for tp in more
        if engine.tensor_parallel < tp <= min(world, hardware.gpus_per_node)
        and world % tp == 0
        and config.model.divisible % tp == 0
        and config.train.global_batch % (world // tp) == 0
    ]
    all_stages: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
    stages = [stage for stage in all_stages if stage >= engine.zero_stage]
    recomputes = [engine.recompute] + [True] * (not engine.recompute)
    chunks = [engine.loss_chunk_rows] + [FEW_ROWS] * (engine.loss_chunk_rows > FEW_ROWS)
    for offload, tp, stage, recompute in product(offloads, widths, stages, recomputes):
        if offload and stage == 0:
            continue
        count = config.train.global_batch * tp // world
        now = min(engine.micro_batch or count, count)
        sizes = [size for size in range(now, 0, -1) if count % size == 0]
        yield [
            replace(
                engine,
                offload_optimizer=offload,
                tensor_parallel=tp,
                zero_stage=stage,
                recompute=recompute,
                micro_batch=engine.micro_batch if size == now and tp == engine.tensor_parallel else size,
                loss_chunk_rows=chunk,
            )
            for size, chunk in product(sizes, chunks)
        ]
