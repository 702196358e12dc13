"""An engine as the rest of training sees it: it takes optimizer steps and hands out what it owns, by parameter name.

A rank owns one `Piece` of each parameter: a consecutive part of the flattened float32 tensor (of its tensor-parallel
share), all of it where data-parallel ranks are copies of one another. Weights, moments and EMA are cut into the same
pieces, so that they can be saved, averaged and joined without knowing how they are cut.

A new engine is a file beside this one and a line of `imdm_dist.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from imdm_dist.checkpoint.format import Piece
from imdm_dist.config.training import EngineConfig, OptimizerConfig
from imdm_dist.model import Backbone
from imdm_dist.parallel.topology import Topology
from imdm_dist.registry import ENGINES

Quantity = Literal["weights", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("weights", "exp_avg", "exp_avg_sq")
ByName = dict[str, Piece]
"""The pieces of this rank by parameter name; live: writing to one changes what the optimizer works on."""


class Engine(Protocol):
    """Takes optimizer steps on a backbone, which it may change as it likes: it is the engine's from then on."""

    backbone: Backbone
    """The model in training."""
    shapes: Mapping[str, torch.Size]
    """Shapes of this rank's tensor-parallel shares of the parameters."""
    divides: bool
    """Whether data-parallel ranks own different pieces."""

    def __init__(
        self,
        backbone: Backbone,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        topology: Topology,
        micro_batch: int,
        micro_batches: int,
    ) -> None:
        """Take over a backbone and make the optimizer's state, all zeros.

        Args:
            backbone: this rank's tensor-parallel share, with its initial weights, on its device.
            micro_batch: examples in a forward pass.
            micro_batches: forward passes in an optimizer step.
        """
        ...

    @staticmethod
    def check(config: EngineConfig) -> None:
        """Check that this engine can do what is asked.

        Raises:
            ValueError: it cannot.
        """
        ...

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        """Add the gradient of a micro-batch's share of the global batch's loss; return that share, detached."""
        ...

    def step(self, lr: float) -> Tensor | float:
        """Clip, update the weights and clear the gradients; return the global gradient norm before clipping.

        Where the norm is not finite nothing is updated.
        """
        ...

    def pieces(self, quantity: Quantity) -> ByName:
        """What this rank owns; a parameter of which it owns nothing is left out."""
        ...

    def updates(self) -> int:
        """Updates made; fewer than steps done where some were skipped."""
        ...

    def load(self, share_of: Callable[[Quantity, str], Tensor], updates: int) -> None:
        """Take weights, moments and the count of updates.

        Args:
            share_of: gives a quantity of a parameter: this rank's tensor-parallel share, float32, on the host.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def engine_of(config: EngineConfig) -> type[Engine]:
    """The class that `engine.kind` names.

    Raises:
        ValueError: there is none, or it cannot do what the other settings of the section ask for.
    """
    found = cast(type[Engine], ENGINES.get(config.kind))
    found.check(config)
    return found
