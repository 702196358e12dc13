"""Where work runs: the GPU that torch sees, else the processor."""

from __future__ import annotations

import ctypes
import platform

import torch


def default_device(place: int = 0) -> torch.device:
    """The GPU of a worker (place modulo their number), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", place % torch.cuda.device_count())


def steady_allocator() -> None:
    """Have glibc give host memory back as it is freed; by default it keeps what was once freed in growing pieces.

    Not for work on a CPU: every large tensor is then fresh from the kernel, and faults for its pages take as long as
    the arithmetic of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold = -3
        ctypes.CDLL(None).mallopt(mmap_threshold, 128 * 1024)


_PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations a second, by a part of the device's name (the makers' data sheets)."""


def peak_flops(device: torch.device) -> float | None:
    """The most operations a second that a device could do in bfloat16; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)
