"""Settings of the whole process while it trains, such as determinism and denormals; they are put back at the end.

Three things stay, and change no result: the processes of a launch stay joined, DeepSpeed's logger tells warnings alone,
and allocator and oneDNN keep what `imdm_dist/device.py` tells them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from imdm_dist.device import few_kernels, flushed_denormals


@contextmanager
def process_settings(deterministic: bool, device: torch.device) -> Iterator[None]:
    """Inside, the process is set for training; at the end, also after an error, it is as it was.

    That is: denormal numbers, deterministic kernels, the environment, filters of warnings, torch's random generators,
    and its `linear`, which ZeRO 3 replaces.

    Args:
        device: whose generator is put back, beside the host's.

    Raises:
        ValueError: see `make_deterministic`.
    """
    few_kernels()
    environment, linear = dict(os.environ), F.linear
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    generators = torch.random.fork_rng([device.index] if device.type == "cuda" else [])
    with flushed_denormals(), warnings.catch_warnings(), generators:
        try:
            if deterministic:
                make_deterministic()
            yield
        finally:
            F.linear = linear
            torch.backends.cudnn.benchmark = benchmark
            torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


def make_deterministic() -> None:
    """Choose deterministic kernels and reductions; call it before a GPU or NCCL is used.

    Operations that have no deterministic kernel warn. On a CPU with a fixed number of threads nothing changes.

    Raises:
        ValueError: the environment asks for NCCL's tree, whose sums depend on timing.
    """
    if "tree" in os.environ.get("NCCL_ALGO", "ring").lower():
        raise ValueError("train.deterministic needs sums in a fixed order: unset NCCL_ALGO, or set it to Ring")
    os.environ["NCCL_ALGO"] = "Ring"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
