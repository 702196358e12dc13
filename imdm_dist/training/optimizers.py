"""The optimizer: torch's fused AdamW, or another library's where it is there and agrees with torch's.

What is found must take the same steps as torch's before it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from imdm_dist.config.training import OptimizerConfig
from imdm_dist.training.apex import find_apex

TOLERANCE = 1e-6
"""Largest difference of a weight of size about one after some steps at a rate of 1e-2."""


def build_optimizer(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW as `config` asks for it.

    Raises:
        ValueError: the library asked for is not there, is another one of that name, or computes something else.
    """
    if config.kind == "torch":
        return torch.optim.AdamW(parameters, fused=True, **_settings(config))
    fused = find_fused(config.kind)
    check_agrees(config, fused, parameters[0].device)
    return fused(parameters, adam_w_mode=True, **_settings(config))


def create_state(kind: str, optimizer: torch.optim.Optimizer, weights: Iterable[Tensor]) -> None:
    """Give AdamW the state that it would make at its first step: moments of zero, no updates.

    Args:
        kind: optimizer.kind: each library counts updates in a place of its own.
        weights: the tensors that it steps.
    """
    for weight in weights:
        optimizer.state[weight] = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
    set_updates(kind, optimizer, 0)


def set_updates(kind: str, optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Set how many updates AdamW has made, which its bias correction counts."""
    if kind == "apex":
        for group in optimizer.param_groups:
            group["step"] = updates
        return
    for state in optimizer.state.values():
        on_device = torch.tensor(float(updates), device=state["exp_avg"].device)
        state["step"] = on_device if kind == "torch" else updates


def updates_of(optimizer: torch.optim.Optimizer) -> int:
    """How many updates AdamW has made."""
    state = next(iter(optimizer.state.values()))
    return int(state["step"] if "step" in state else optimizer.param_groups[0]["step"])


def skip_unless_finite(kind: str, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Make the next step change nothing where the norm of the gradient is not finite."""
    if kind == "torch":
        # Its fused optimizers skip on the device where this is not zero (the seam of torch's gradient scaler).
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    elif not norm.isfinite():
        optimizer.zero_grad()  # other libraries know no such flag: the host must look, and leave no gradient


def find_fused(kind: str) -> Any:
    """The class FusedAdam of DeepSpeed or apex.

    Raises:
        ValueError: it cannot be imported; the message says what is there instead.
    """
    if kind == "deepspeed":
        from deepspeed.ops.adam import FusedAdam

        if not torch.cuda.is_available():
            raise ValueError("optimizer.kind=deepspeed needs a GPU, whose kernel it compiles: set optimizer.kind=torch")
        return FusedAdam
    return find_apex("apex.optimizers", "FusedAdam", "amp_C", "optimizer.kind")


def check_agrees(config: OptimizerConfig, fused: Any, device: torch.device, steps: int = 5) -> None:
    """Take some steps on a few weights beside torch's AdamW.

    Raises:
        ValueError: the results differ.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator)
    grads = torch.randn(steps, 1000, generator=generator)
    ends = []
    makers: list[Any] = [partial(torch.optim.AdamW, fused=True), partial(fused, adam_w_mode=True)]
    for make in makers:
        weight = nn.Parameter(start.to(device, copy=True))
        optimizer = make([weight], **_settings(config))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        for grad in grads:
            weight.grad = grad.to(device, copy=True)
            optimizer.step()
        ends.append(weight.detach().cpu())
    difference = float((ends[0] - ends[1]).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"optimizer.kind={config.kind} differs from torch's AdamW by {difference:.1e} after {steps} steps: "
            "set optimizer.kind=torch"
        )


def _settings(config: OptimizerConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("lr", "betas", "eps", "weight_decay")}
