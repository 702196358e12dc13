"""The interface of an engine: gradients, optimizer steps, and the shards of weights and optimizer state by name.

A rank owns one `Piece` of each parameter: a consecutive part of the flattened float32 tensor (of its tensor-parallel
share), all of it where data-parallel ranks are copies of one another. Weights, moments and EMA are cut into the same
pieces, so that they can be saved, averaged and joined without knowing how they are cut.

A new engine is a file beside this one and a line of `imdm_dist.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from imdm_dist.checkpoint.format import Piece
from imdm_dist.config.setting import require
from imdm_dist.config.training import EngineConfig, OptimizerConfig
from imdm_dist.model import Backbone
from imdm_dist.parallel.topology import Topology
from imdm_dist.registry import ENGINES
from imdm_dist.training.optimizers import build_optimizer, create_state, set_updates, updates_of

Quantity = Literal["weights", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("weights", "exp_avg", "exp_avg_sq")
ByName = dict[str, Piece]
"""The pieces of this rank by parameter name; live: writing to one changes what the optimizer works on."""


class Engine(ABC):
    """Takes optimizer steps on a backbone, which is the engine's from then on.

    Args:
        backbone: this rank's tensor-parallel share, with its initial weights, on its device.
        micro_batch: examples in a forward pass.
        micro_batches: forward passes in an optimizer step.
    """

    max_zero_stage = 0
    """The highest engine.zero_stage that it can do."""
    divides = False
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
        self.backbone, self.config, self.optimizer, self.topology = backbone, config, optimizer, topology
        self.parameters = dict(backbone.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        """Of this rank's tensor-parallel shares."""
        self.adamw = build_optimizer(optimizer, list(self.parameters.values()))
        create_state(optimizer.kind, self.adamw, self.set_up(micro_batch, micro_batches))
        self._pieces: dict[Quantity, ByName] = {}

    def set_up(self, micro_batch: int, micro_batches: int) -> Iterable[Tensor]:
        """Make ready what a form of the engine has; return the tensors that the optimizer steps."""
        return self.parameters.values()

    @abstractmethod
    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        """Add the gradient of a micro-batch's share of the global batch's loss; return that share, detached."""

    @abstractmethod
    def step(self, lr: float) -> Tensor | float:
        """Clip, update the weights and clear the gradients; return the global gradient norm before clipping.

        Where the norm is not finite nothing is updated.
        """

    def pieces(self, quantity: Quantity) -> ByName:
        """What this rank owns; a parameter of which it owns nothing is left out."""
        if quantity not in self._pieces:
            found = {name: self.piece(name, quantity) for name in self.parameters}
            self._pieces[quantity] = {name: piece for name, piece in found.items() if piece is not None}
        return self._pieces[quantity]

    def piece(self, name: str, quantity: Quantity) -> Piece | None:
        """What this rank owns of a parameter, if anything; all of it where nothing is divided."""
        parameter = self.parameters[name]
        tensor = parameter.detach() if quantity == "weights" else self.adamw.state[parameter][quantity]
        return Piece(0, tensor.view(-1))

    def updates(self) -> int:
        """Updates made; fewer than steps done where some were skipped."""
        return updates_of(self.adamw)

    def load(self, share_of: Callable[[Quantity, str], Tensor], updates: int) -> None:
        """Take weights, moments and the count of updates.

        Args:
            share_of: gives a quantity of a parameter: this rank's tensor-parallel share, float32, on the host.
        """
        for name in self.shapes:
            for quantity in QUANTITIES:
                self.take(name, quantity, share_of(quantity, name))
        set_updates(self.optimizer.kind, self.adamw, updates)

    def take(self, name: str, quantity: Quantity, whole: Tensor) -> None:
        """Overwrite a quantity of a parameter, given this rank's whole tensor-parallel share."""
        if name in self.pieces(quantity):
            self.pieces(quantity)[name].copy_from(whole)

    def close(self) -> None:
        """Free what the engine holds."""
        self._pieces.clear()
        self.adamw.state.clear()


def engine_of(config: EngineConfig) -> type[Engine]:
    """The class that `engine.kind` names.

    Raises:
        ValueError: there is none, or it cannot do what the other settings of the section ask for.
    """
    found: type[Engine] = ENGINES.get(config.kind)
    require(
        config.zero_stage <= found.max_zero_stage,
        f"engine.kind={config.kind} has engine.zero_stage up to {found.max_zero_stage}, not {config.zero_stage}: lower "
        "it (engine.precision=bf16 and engine.offload_optimizer need 1), or set engine.kind=deepspeed",
    )
    return found


def compute(loss: Callable[[Backbone], Tensor], backbone: Backbone, config: EngineConfig) -> Tensor:
    """A loss on a backbone under the precision of the settings."""
    with torch.autocast(backbone.device.type, torch.bfloat16, enabled=config.precision == "autocast"):
        return loss(backbone)
