"""AdamW as other libraries have it: they keep no more of an optimizer's state than they need, each in its place."""

from __future__ import annotations

import torch
from torch import nn


class OtherAdam(torch.optim.Optimizer):
    """Counts its updates as DeepSpeed's does (a number for each tensor) or as apex's (one for all).

    Args:
        counts: "deepspeed" or "apex".
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        counts: str,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.counts = counts

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights that have gradients."""
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if self.counts == "apex" and weights:
                group["step"] = group.get("step", 0) + 1
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state |= {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
                    state |= {"step": 0} if self.counts == "deepspeed" else {}
                if self.counts == "deepspeed":
                    state["step"] += 1
                step = state["step"] if self.counts == "deepspeed" else group["step"]
                mean = state["exp_avg"].lerp_(weight.grad, 1 - beta1) / (1 - beta1**step)
                square = state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
                change = mean / ((square / (1 - beta2**step)).sqrt() + group["eps"])
                weight.sub_(lr * (change + group["weight_decay"] * weight))
