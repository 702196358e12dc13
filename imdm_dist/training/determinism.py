"""The same bits at every run on the same machine."""

from __future__ import annotations

import os

import torch


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
