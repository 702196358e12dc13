"""EMA: the exponential moving average of the weights, in float32, sharded over ranks as the optimizer state is."""

from __future__ import annotations

import torch

from imdm_dist.checkpoint.format import Piece
from imdm_dist.training.engine import ByName


class Ema:
    """Shadow weights with MDLM's warm start: the decay of update n is min(decay, (1 + n) / (10 + n)).

    Args:
        weights: this rank's pieces of the weights; the shadow has the same, wherever they are.
    """

    def __init__(self, weights: ByName, decay: float) -> None:
        self.decay = decay
        self.shadow: ByName = {name: Piece(w.start, w.tensor.clone()) for name, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: ByName, done: int) -> None:
        """Fold in the weights after `done` optimizer steps (1 after the first)."""
        decay = min(self.decay, (1 + done) / (10 + done))
        ours = [piece.tensor for piece in self.shadow.values()]
        torch._foreach_lerp_(ours, [weights[name].tensor for name in self.shadow], 1 - decay)
