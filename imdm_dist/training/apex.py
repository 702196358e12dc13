"""NVIDIA apex, where it is there: no dependency, and what the package index calls apex is another project.

Symbols are imported one by one, from packages that only NVIDIA's has.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of a normalised value, or of a gradient, from torch's."""


def find_apex(module: str, symbol: str, kernels: str, setting: str) -> Any:
    """A symbol of NVIDIA apex.

    Args:
        module: where it is.
        kernels: the extension that it needs.
        setting: what asked for it, for the message.

    Raises:
        ValueError: it is not there; the message says what is there instead.
    """
    remedy = f"set {setting}=torch"
    if importlib.util.find_spec("apex") is None:
        raise ValueError(f"{setting}=apex needs NVIDIA apex, built from its source with CUDA: or {remedy}")
    try:
        importlib.import_module(kernels)
        return getattr(importlib.import_module(module), symbol)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the installed package apex has no {symbol} ({error}): it is another project of that name, or NVIDIA's "
            f"built without CUDA; build it from NVIDIA's source, or {remedy}"
        ) from None


def apex_layer_norm(device: torch.device) -> Callable[[Tensor], Tensor]:
    """apex's fused normalisation along the last axis.

    Raises:
        ValueError: it is not there, or computes something else than torch's.
    """
    setting = "engine.layer_norm"
    fused = find_apex("apex.normalization.fused_layer_norm", "fused_layer_norm", "fused_layer_norm_cuda", setting)

    def normalise(x: Tensor) -> Tensor:
        return fused(x, x.shape[-1:])

    generator = torch.Generator().manual_seed(0)
    start, weight = (torch.randn(7, 96, generator=generator).to(device) for _ in range(2))
    found = []
    for function in (normalise, lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:])):
        x = (3 * start + 1).requires_grad_()
        y = function(x)
        found.append((y.detach(), torch.autograd.grad((y * weight).sum(), x)[0]))
    worst = max(float((ours - theirs).abs().max()) for ours, theirs in zip(*found, strict=True))
    if not worst <= TOLERANCE:
        raise ValueError(f"{setting}=apex differs from torch's LayerNorm by {worst:.1e}: set {setting}=torch")
    return normalise
