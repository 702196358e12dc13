"""Time limits of SLURM jobs, as sbatch reads them."""

from __future__ import annotations

import math
import re

LEAST_S = 120
"""Seconds that a job needs beside its warning: SLURM may send it a minute early, and processes take time to start."""


def minutes_of(time: str) -> float:
    """Minutes of a time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; begun ones count.

    0, UNLIMITED and INFINITE are no limit: `math.inf`.

    Raises:
        ValueError: it is something else.
    """
    if time.lower() in ("unlimited", "infinite"):
        return math.inf
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise ValueError(f"{time!r} is no time limit: write minutes, or hours:minutes:seconds, or days-hours")
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        hours += 24 * int(days)
    else:
        hours, minutes, seconds = [0, *parts, 0][:3] if len(parts) < 3 else parts
    return hours * 60 + minutes + (seconds > 0) or math.inf


def only_requeues(minutes: float, warning_s: int) -> bool:
    """Whether a job with this limit is warned of its end before it has begun, so that it would only be queued again."""
    return minutes * 60 < warning_s + LEAST_S
