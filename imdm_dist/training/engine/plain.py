"""The plain engine, torch alone and nothing sharded: the readable reference that DeepSpeed is tested against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from imdm_dist.model import Backbone
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.engine.engine import Engine, compute
from imdm_dist.training.optimizers import skip_unless_finite


class PlainEngine(Engine):
    """See `Engine`. Gradients add up over micro-batches, then over data-parallel ranks."""

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        share = compute(compute_loss, self.backbone, self.config)
        share.backward()
        return share.detach()

    def step(self, lr: float) -> Tensor:
        if self.topology.dp > 1:
            for grad in gradients(self.backbone).values():
                self.topology.sum_over_data(grad)
        norm = clip_gradients(self.backbone, self.optimizer.clip, self.topology)
        skip_unless_finite(self.optimizer.kind, self.adamw, norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.backbone.zero_grad()
        return norm


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    """Those that there are, by parameter name."""
    return {name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None}


def clip_gradients(backbone: Backbone, clip: float, topology: Topology) -> Tensor:
    """Scale gradients, in place, to a global norm of at most `clip` (0: any); return the norm before, float32 [].

    Args:
        backbone: this rank's tensor-parallel share, its gradients summed over data-parallel ranks.
    """
    grads, cut_of = gradients(backbone), backbone.cut_of
    # What every tensor-parallel rank holds counts once.
    counted = [grad for name, grad in grads.items() if topology.tp_rank == 0 or cut_of(name) is not None]
    square = torch.stack(torch._foreach_norm(counted)).square().sum()
    if topology.tp > 1:
        dist.all_reduce(square, group=topology.tp_group)
    norm = square.sqrt()
    torch._foreach_mul_(list(grads.values()), ((clip or float("inf")) / (norm + 1e-6)).clamp(max=1.0))
    return norm
