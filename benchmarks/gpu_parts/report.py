"""What a part has found so far, on the disk after every line."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imdm_dist.device import default_device
from imdm_dist.files import write_json
from imdm_dist.versions import versions


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def device_name(device: torch.device) -> str:
    """The GPU's name, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@dataclass
class Report:
    """Checks and figures of a part.

    Args:
        path: the JSON file they are written to.
        work: a folder for what the part makes.
        quick: tiny shapes.
    """

    path: Path
    work: Path
    quick: bool
    device: torch.device = field(default_factory=default_device)
    rows: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    started: float = field(default_factory=time.monotonic)

    def check(self, what: str, found: float, limit: float) -> None:
        """Note a figure that must not be above a limit; NaN is."""
        self._add({"what": what, "found": _finite(found), "limit": limit, "passed": bool(found <= limit)})

    def figure(self, what: str, found: float, unit: str) -> None:
        """Note a figure that nothing is asked of."""
        self._add({"what": what, "found": _finite(found), "unit": unit})

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Publish all there is."""
        content = {
            "rows": self.rows,
            "finished": self.finished,
            "seconds": round(time.monotonic() - self.started, 1),
            "device": device_name(self.device),
            "versions": versions(),
        }
        if self.device.type == "cuda":
            content["cuda"] = torch.version.cuda
        write_json(self.path, content)

    def wait(self) -> float:
        """The time when the device has done all it was given, seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    @contextmanager
    def waits(self, what: str) -> Iterator[None]:
        """Notes how often the host waits for the GPU inside, as torch tells it."""
        if self.device.type != "cuda":
            yield
            return
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
        self.figure(what, sum("synchroniz" in str(warning.message) for warning in told), "")

    @contextmanager
    def clock(self) -> Iterator[list[float]]:
        """Measures the seconds that what is inside takes on the device."""
        seconds: list[float] = []
        started = self.wait()
        yield seconds
        seconds.append(self.wait() - started)
