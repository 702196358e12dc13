"""The plain engine: torch alone, nothing divided. It is the readable reference that DeepSpeed is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from imdm_dist.checkpoint.format import Piece
from imdm_dist.config.require import require
from imdm_dist.config.training import EngineConfig, OptimizerConfig
from imdm_dist.model import Backbone
from imdm_dist.parallel.cuts import cut_of
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.engine.engine import QUANTITIES, ByName, Quantity
from imdm_dist.training.optimizers import build_optimizer, create_state, set_updates, skip_unless_finite, updates_of


class PlainEngine:
    """See `Engine`. Gradients add up over micro-batches, then over data-parallel ranks."""

    divides = False

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
        named = dict(backbone.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in named.items()}
        self._adamw = build_optimizer(optimizer, list(named.values()))
        create_state(optimizer.kind, self._adamw, named.values())
        self._pieces = {"weights": {name: Piece(0, parameter.detach().view(-1)) for name, parameter in named.items()}}
        for moment in QUANTITIES[1:]:
            self._pieces[moment] = {name: Piece(0, self._adamw.state[p][moment].view(-1)) for name, p in named.items()}

    @staticmethod
    def check(config: EngineConfig) -> None:
        """See `Engine`."""
        require(
            config.zero_stage == 0,
            "engine.kind=plain divides nothing over data-parallel ranks: set engine.zero_stage=0, and with it neither "
            "engine.precision=bf16 nor engine.offload_optimizer, or engine.kind=deepspeed",
        )

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        """See `Engine`."""
        autocast = self.config.precision == "autocast"
        with torch.autocast(self.topology.device.type, torch.bfloat16, enabled=autocast):
            share = compute_loss(self.backbone)
        share.backward()
        return share.detach()

    def step(self, lr: float) -> Tensor:
        """See `Engine`."""
        grads = {name: p.grad for name, p in self.backbone.named_parameters() if p.grad is not None}
        for grad in grads.values() if self.topology.dp > 1 else ():
            self.topology.sum_over_data(grad)
        norm = clip_gradients(grads, self.optimizer.clip, self.topology)
        skip_unless_finite(self.optimizer.kind, self._adamw, norm)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self.backbone.zero_grad()
        return norm

    def pieces(self, quantity: Quantity) -> ByName:
        """See `Engine`."""
        return self._pieces[quantity]

    def updates(self) -> int:
        """See `Engine`."""
        return updates_of(self._adamw)

    def load(self, share_of: Callable[[Quantity, str], Tensor], updates: int) -> None:
        """See `Engine`."""
        for quantity in QUANTITIES:
            for name, piece in self.pieces(quantity).items():
                piece.copy_from(share_of(quantity, name))
        set_updates(self.optimizer.kind, self._adamw, updates)

    def close(self) -> None:
        """See `Engine`; there is nothing to free."""


def clip_gradients(grads: Mapping[str, Tensor], clip: float, topology: Topology) -> Tensor:
    """Scale gradients, in place, to a global norm of at most `clip` (0: any); return the norm before, float32 [].

    Args:
        grads: by parameter name, of this rank's tensor-parallel shares, summed over data-parallel ranks.
    """
    # What every tensor-parallel rank holds counts once.
    counted = [grad for name, grad in grads.items() if topology.tp_rank == 0 or cut_of(name) is not None]
    square = torch.stack(torch._foreach_norm(counted)).square().sum()
    if topology.tp > 1:
        dist.all_reduce(square, group=topology.tp_group)
    norm = square.sqrt()
    torch._foreach_mul_(list(grads.values()), ((clip or float("inf")) / (norm + 1e-6)).clamp(max=1.0))
    return norm
