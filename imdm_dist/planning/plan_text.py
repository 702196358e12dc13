"""A plan as text: aligned tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from imdm_dist.config.time_limit import minutes_of
from imdm_dist.planning.memory import PHASES
from imdm_dist.planning.plan import CouplingPlan, Plan


def plan_text(plan: Plan, coupling: bool = True) -> str:
    """The whole plan; without the coupling where it is not this run that makes one."""
    parts = [_parameters(plan), _memory(plan), _work(plan)]
    if coupling:
        parts.append(coupling_text(plan.coupling))
    parts += [f"note: {note}\n" for note in plan.notes]
    return "\n".join(parts)


def _parameters(plan: Plan) -> str:
    count = plan.parameters
    rows = [["backbone", _millions(count.backbone)]]
    if count.noise_mlp:
        rows += [["mask embedding (noise MLP)", _millions(count.noise_mlp)], ["together", _millions(count.total)]]
    if plan.tensor_parallel > 1:
        rows.append([f"on each of {plan.tensor_parallel} tensor-parallel ranks", _millions(count.rank)])
    return _table(["parameters", f"vocabulary {plan.vocab_size:,}"], rows)


def _memory(plan: Plan) -> str:
    memory, hardware = plan.memory, plan.hardware
    digits = 2 if memory.peak >= 10e9 else 3
    shown = {part: sizes for part, sizes in memory.parts.items() if any(sizes)} | {"total": memory.totals}
    rows = [[part, *(f"{size / 1e9:.{digits}f}" for size in sizes)] for part, sizes in shown.items()]
    phase = PHASES[memory.totals.index(memory.peak)]
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines = [
        f"peak {gigabytes(memory.peak)} GB a rank ({phase}): {verdict} into {gigabytes(hardware.memory)} GB"
        + (f" ({gigabytes(hardware.usable)} usable)" if hardware.usable < hardware.memory else "")
    ]
    if not plan.fits:
        lines.append(_remedy(plan))
    if memory.host:
        lines.append(f"host memory {gigabytes(memory.host)} GB a rank beside it")
    lines.append(f"a checkpoint takes {gigabytes(memory.checkpoint)} GB on disk")
    return _table(["memory of a rank, GB", *PHASES], rows) + "\n".join(lines) + "\n"


def _remedy(plan: Plan) -> str:
    if plan.remedy is None:
        return "no setting makes it fit: take more ranks, or more memory for each"
    settings = " ".join(f"{name}={str(value).lower()}" for name, value in plan.remedy.settings.items())
    return f"it fits, at {gigabytes(plan.remedy.peak)} GB, with {settings}"


def _work(plan: Plan) -> str:
    hardware, flops = plan.hardware, plan.flops
    parts = {
        "backbone": flops.backbone,
        "head": flops.head,
        "recomputation": flops.recompute,
        "teacher": flops.teacher,
        "total": flops.total,
    }
    unit, size = ("TFLOP", 1e12) if flops.total >= 1e12 else ("GFLOP", 1e9)
    rows = [[name, f"{value / size:,.1f}", f"{value / flops.total:.0%}"] for name, value in parts.items() if value]
    lines = [
        f"{plan.tokens:,} tokens a step: {plan.data_parallel} data-parallel x {plan.micro_batches} micro-batches "
        f"x {plan.micro_batch} examples",
        f"{duration(plan.step_seconds)} a step, {plan.tokens / plan.step_seconds:,.0f} tokens/s, at "
        f"{hardware.mfu:.0%} of {hardware.peak_flops / 1e12:.4g} TFLOP/s a GPU",
    ]
    if plan.steps:
        hours = plan.train_seconds * hardware.gpus / 3600
        lines.append(f"steps {plan.steps:,}: {duration(plan.train_seconds)}, {_number(hours)} GPU hours")
    else:
        lines.append("train.steps is 0: set it to see the time of the run")
    return _table(["a step", unit, ""], rows) + "\n".join(lines) + "\n"


def coupling_text(coupling: CouplingPlan) -> str:
    """What a coupling needs."""
    cost = coupling.cost
    return _table(
        ["coupling", f"{coupling.pairs:,} pairs"],
        [
            ["tokens filled in, a pair", f"{cost.masked:.0f}"],
            ["network evaluations, a pair", f"{cost.evaluations:.0f}"],
            ["GFLOP, a pair", _number(cost.flops / 1e9)],
            ["time on all GPUs", duration(coupling.seconds)],
            ["GPU hours", _number(coupling.gpu_hours)],
            ["shards on disk, GB (estimate)", _number(coupling.file_bytes / 1e9)],
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first to the left and the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ""
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        text += "  ".join(cells).rstrip() + "\n"
        if number == 0:
            text += "  ".join("-" * w for w in widths if w) + "\n"
    return text


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} seconds" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def limit_text(time: str) -> str:
    """A time limit as it is read, in words: whoever wrote 24 may have meant hours."""
    minutes = minutes_of(time)
    return "no time limit" if math.isinf(minutes) else f"{duration(60 * minutes)} at most"
