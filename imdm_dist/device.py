"""The device (GPU or CPU) and what is set for it in the process: allocator, kernel cache, denormals; peak FLOP/s."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import torch

Record = TypeVar("Record", bound=Any)


def default_device(place: int = 0) -> torch.device:
    """The GPU of a worker (place modulo their number), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", place % torch.cuda.device_count())


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device without waiting for what the device does; from pinned memory to a GPU,
    as from any other the copy comes after all that the GPU was given before."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def send_all(record: Record, device: torch.device) -> Record:
    """A dataclass with its tensors, and those of dataclasses within it, sent to a device."""
    tensors = {name: send(part, device) for name, part in vars(record).items() if isinstance(part, torch.Tensor)}
    inner = {name: send_all(part, device) for name, part in vars(record).items() if is_dataclass(part)}
    changed: Record = replace(record, **tensors, **inner)
    return changed


KERNELS = 128
"""Kernels that are kept: a step on a CPU uses thirty to sixty, three of them made for its number of masked rows."""
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""What oneDNN and torch's layer over it (ideep) read in the environment; each would keep 1,024."""


def few_kernels() -> None:
    """Have oneDNN keep `KERNELS` kernels; call it before the first matrix product in bfloat16.

    It makes one for every shape, and the number of masked rows is another one at almost every step: a thousand kernels
    that never come again, each with buffers that lie between the activations and keep the heap from being used again.
    The setting is the process's, and its children have it too; one that is in the environment counts.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, numbers too small for their format's full precision are zero: on them a CPU is a hundred times slower.

    The processor has this for each thread, and a thread that is made has it from the one that makes it. torch's threads
    are therefore made anew on both ends, where its OpenMP can do that.
    """
    smallest = torch.tensor(torch.finfo(torch.float64).tiny, dtype=torch.float64)
    before = not bool(smallest / 2)
    torch.set_flush_denormal(True)
    _forget_threads()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
        _forget_threads()


def _forget_threads() -> None:
    with suppress(AttributeError):  # no OpenMP 5
        soft = 1
        ctypes.CDLL(None).omp_pause_resource_all(soft)


def steady_allocator() -> None:
    """Have glibc give host memory back as it is freed; by default it keeps what was once freed in growing pieces.

    It holds for the process from then on: glibc does not tell what was set before. Not for work on a CPU: every large
    tensor is then fresh from the kernel, and faults for its pages take as long as the arithmetic of a step.
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
