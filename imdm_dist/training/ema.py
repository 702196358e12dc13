"""Exponential moving average of the weights, by name, in float32."""

from __future__ import annotations

import torch
from torch import Tensor


class Ema:
    """Shadow weights with MDLM's warm start: the decay of update n is min(decay, (1 + n) / (10 + n))."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.shadow = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], done: int) -> None:
        """Fold in the weights after `done` optimizer steps (1 after the first)."""
        decay = min(self.decay, (1 + done) / (10 + done))
        names = list(self.shadow)
        torch._foreach_lerp_([self.shadow[n] for n in names], [weights[n] for n in names], 1 - decay)

    @torch.no_grad()
    def load(self, shadow: dict[str, Tensor]) -> None:
        """Take the shadow of a checkpoint."""
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
