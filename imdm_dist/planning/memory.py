"""Predicted memory of one rank, by part (weights, gradients, optimizer state, ...) and phase of an optimizer step.

What DeepSpeed 0.19 allocates is taken from its source (`runtime/engine.py`, `runtime/zero/stage_1_and_2.py`,
`runtime/zero/stage3.py`) and checked by measurement; what torch keeps is measured (`activations.py`). `dp` is the
number of data-parallel ranks, and sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imdm_dist.checkpoint.format import STATE_BYTES
from imdm_dist.config.schema import Config
from imdm_dist.objectives.batch import strata
from imdm_dist.objectives.objective import objective_of
from imdm_dist.planning.activations import Activations, Device, activation_memory
from imdm_dist.planning.parameters import Parameters, count_parameters
from imdm_dist.training.engine.deepspeed import BUCKET

PHASES = ("forward", "loss", "last block", "first block", "reduce", "update")
"""End of forward; backward of the loss, of the last block and, as the last, of the first; reduction of gradients over
ranks; optimizer."""
LIVE_PARAMETERS = 1_000_000_000
"""Gathered parameters that ZeRO 3 lets live at a time (stage3_max_live_parameters)."""
BASE: dict[Device, int] = {"cpu": 500_000_000, "cuda": 1_000_000_000}
"""Of a process before there is a model: libraries; on a GPU its context and the workspaces of cuBLAS."""
NCCL = 1_000_000_000
"""Buffers of NCCL, where there are several GPUs."""

FP32 = 4

ByPhase = tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that needs most."""

    parts: Mapping[str, ByPhase]
    """By part, in the order of `PHASES`."""
    host: int
    """Bytes of host memory beside a GPU: offloaded state, and the copy an asynchronous checkpoint is written from."""
    checkpoint: int
    """Bytes of a checkpoint on disk, all ranks together."""

    @property
    def totals(self) -> ByPhase:
        """Sums over parts."""
        return tuple(sum(sizes) for sizes in zip(*self.parts.values(), strict=True))

    @property
    def peak(self) -> int:
        """The largest total."""
        return max(self.totals)


def rank_memory(
    config: Config, vocab_size: int, world: int, micro_batch: int, micro_batches: int, device: Device
) -> Memory:
    """Memory of one of `world` ranks.

    Args:
        micro_batch: examples in one forward pass.
        micro_batches: forward passes in an optimizer step.
    """
    engine, tp = config.engine, config.engine.tensor_parallel
    count = count_parameters(config.model, vocab_size, tp)
    dp = world // tp
    shard = -(-count.rank // dp) if engine.zero_stage else count.rank
    live = activation_memory(config, vocab_size, micro_batch, worst_masked_share(config, micro_batch), device)
    on_device = not (engine.offload_optimizer and device == "cuda")
    state = {
        "fp32 masters": FP32 * shard if engine.zero_stage else 0,
        "optimizer state": 2 * FP32 * shard,
        "EMA": FP32 * shard,
    }
    width = weight_width(config)
    objective = objective_of(config.objective)
    teachers = int(objective.needs_teacher)
    saved = STATE_BYTES + FP32 * teachers
    staged = saved * count.rank // dp if _saves_aside(config) else 0
    parts: dict[str, ByPhase] = {
        "weights": _weights(config, count, shard, dp),
        "bf16 copies of weights": _copies(live),
        "gradients": _gradients(config, count, shard, micro_batches > 1, live.head_gradients),
        **{name: _always(size if on_device else 0) for name, size in state.items()},
        "teacher": _always(width * count.rank * teachers),
        "activations": (live.kept, live.kept, live.last_block.activations, live.first_block.activations, 0, 0),
        "loss chunk": (live.forward.activations - live.kept, live.loss.activations - live.kept, 0, 0, 0, 0),
        "ZeRO buffers": _buffers(config, count, shard, dp, device),
        "checkpoint copy": _always(staged if device == "cpu" else 0),
        "framework": _always(BASE[device] + (NCCL if device == "cuda" and world > 1 else 0)),
    }
    host = 0
    if device == "cuda":
        # Offloaded: masters, moments, EMA, their gradient, and a copy in the width of the weights.
        host = staged + (0 if on_device else sum(state.values()) + (FP32 + width) * shard)
    return Memory(parts, host, saved * count_parameters(config.model, vocab_size).total)


def weight_width(config: Config) -> int:
    """Bytes of a weight as forward has it, and of its gradient."""
    return 2 if config.engine.precision == "bf16" else FP32


def worst_masked_share(config: Config, micro_batch: int) -> float:
    """Share of positions masked in the micro-batch that has most.

    Times are stratified over the global batch, each micro-batch with its own spread of strata. The times of a
    perturbed coupling are those of its pairs, independent: three standard deviations of their mean are taken.
    """
    if not objective_of(config.objective).costs(config).stratified:
        return min(1.0, 0.5 + 3 * float((1 / 12 / micro_batch) ** 0.5))
    batch = config.train.global_batch
    return float((strata(batch).double() + 0.5).view(-1, micro_batch).mean(dim=1).max()) / batch


def _saves_aside(config: Config) -> bool:
    """Whether a checkpoint is ever written from a copy: the last one is not."""
    return config.train.async_save and not 0 < objective_of(config.objective).steps(config) <= config.train.save_every


def _always(size: int) -> ByPhase:
    return (size,) * len(PHASES)


def _weights(config: Config, count: Parameters, shard: int, dp: int) -> ByPhase:
    """ZeRO 3 keeps a shard and gathers the rest, which its settings let live from forward to the end of backward."""
    width = weight_width(config)
    if config.engine.zero_stage < 3 or dp == 1:
        return _always(width * count.rank)
    own, gathered = width * shard, width * (shard + min(count.rank, LIVE_PARAMETERS))
    return gathered, gathered, gathered, gathered, gathered, own


def _copies(live: Activations) -> ByPhase:
    return *(held.copies for held in (live.forward, live.loss, live.last_block, live.first_block)), 0, 0


def _gradients(config: Config, count: Parameters, shard: int, accumulates: bool, head: int) -> ByPhase:
    """Gradients of parameters, and in the update those that the optimizer works on."""
    stage, width = config.engine.zero_stage, weight_width(config)
    whole, part = width * count.rank, width * shard
    if stage == 0:
        held = whole if accumulates else 0
        return held, held, held + head, whole, whole, whole
    # The update flattens the shard's gradients, in float32 on top where they are narrower. Before, their norm is
    # taken tensor by tensor in float64.
    wider = 0 if width == FP32 else FP32 * shard
    norm = 2 * FP32 * min(count.rank_largest, shard)
    if stage == 3:
        # A flat gradient of the shard lives always, apart from what the update works on.
        return part, part, part + head, part, part, 2 * part + wider
    held = (whole if stage == 1 else part) if accumulates else 0
    # ZeRO 1 has all gradients until the end of backward, and what does not fit into its buffer then, too.
    late = width * max(0, count.rank - BUCKET) if stage == 1 else part if accumulates else 0
    reduced = part + late
    return held, held, held + head, whole if stage == 1 else held, reduced, part + max(part + wider, norm)


def _buffers(config: Config, count: Parameters, shard: int, dp: int, device: Device) -> ByPhase:
    """Flat buffers that gradients are reduced in. On a CPU only what is written to takes memory."""
    stage, width = config.engine.zero_stage, weight_width(config)
    if stage == 0:
        flat = width * min(count.rank, BUCKET + count.rank_largest) if dp > 1 else 0
        return 0, 0, 0, 0, flat, 0
    used = width * min(count.rank, BUCKET)
    bucket = width * BUCKET if device == "cuda" else used
    if stage == 3:
        # A flat copy is reduced; gloo, which has no reduce-scatter, copies what is this rank's once more.
        return bucket, bucket, bucket, bucket, bucket + used + (0 if device == "cuda" else used // dp), bucket
    # What is in the buffer is flattened for the reduction, and this rank's shard copied out of it afterwards. On a
    # GPU ZeRO 1 has as much before: the buffer is empty and there in full, and the gradients move into it.
    beside = used if dp > 1 or (stage == 1 and device == "cuda") else 0
    first = bucket if device == "cuda" or stage == 2 else 0
    return 0, 0, bucket if device == "cuda" else 0, first, bucket + max(0, beside - width * shard), 0
