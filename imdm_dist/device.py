"""Where work runs: the GPU that torch sees, else the processor."""

from __future__ import annotations

import torch


def default_device(place: int = 0) -> torch.device:
    """The GPU of a worker (place modulo their number), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", place % torch.cuda.device_count())
