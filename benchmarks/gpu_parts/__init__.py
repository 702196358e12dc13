"""What `benchmarks/gpu.py` looks at on a device, part by part; each is a function of a `Report`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.gpu_parts.report import Report

PARTS: dict[str, tuple[int, str]] = {
    # name: (most seconds, module and function); all together stay below nine minutes
    "noise": (60, "noise:run"),
    "golden": (90, "golden:run"),
    "law": (40, "law:run"),
    "training": (120, "training:run"),
    "step": (50, "speed:plain"),
    "compiled": (70, "speed:compiled"),
    "sampler": (50, "sampling:run"),
    "attention": (50, "attention:run"),
}


def part(name: str) -> Callable[[Report], None]:
    """The function of a part; what it needs is imported with it, so that what is missing fails this part alone."""
    module, function = PARTS[name][1].split(":")
    found: Callable[[Report], None] = getattr(import_module(f"benchmarks.gpu_parts.{module}"), function)
    return found
