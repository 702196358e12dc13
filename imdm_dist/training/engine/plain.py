"""The plain engine: torch alone, nothing divided. It is the readable reference that DeepSpeed is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imdm_dist.model import Backbone
from imdm_dist.parallel.cuts import cut_of
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.engine.engine import Engine, compute
from imdm_dist.training.optimizers import skip_unless_finite


class PlainEngine(Engine):
    """See `Engine`. Gradients add up over micro-batches, then over data-parallel ranks."""

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        """See `Engine`."""
        share = compute(compute_loss, self.backbone, self.config)
        share.backward()
        return share.detach()

    def step(self, lr: float) -> Tensor:
        """See `Engine`."""
        if self.topology.dp > 1:
            for grad in gradients(self.parameters).values():
                self.topology.sum_over_data(grad)
        norm = clip_gradients(self.parameters, self.optimizer.clip, self.topology)
        skip_unless_finite(self.optimizer.kind, self.adamw, norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.backbone.zero_grad()
        return norm


def gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Those that there are, by parameter name."""
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


def clip_gradients(parameters: Mapping[str, nn.Parameter], clip: float, topology: Topology) -> Tensor:
    """Scale gradients, in place, to a global norm of at most `clip` (0: any); return the norm before, float32 [].

    Args:
        parameters: this rank's tensor-parallel shares by name, their gradients summed over data-parallel ranks.
    """
    grads = gradients(parameters)
    # What every tensor-parallel rank holds counts once.
    counted = [grad for name, grad in grads.items() if topology.tp_rank == 0 or cut_of(name) is not None]
    square = torch.stack(torch._foreach_norm(counted)).square().sum()
    if topology.tp > 1:
        dist.all_reduce(square, group=topology.tp_group)
    norm = square.sqrt()
    torch._foreach_mul_(list(grads.values()), ((clip or float("inf")) / (norm + 1e-6)).clamp(max=1.0))
    return norm
