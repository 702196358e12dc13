"""Debugging check that replicated weights are equal on all ranks, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from imdm_dist.parallel.topology import Topology


def check_replicas(topology: Topology, parameters: Mapping[str, Tensor], step: int) -> None:
    """Compare the weights of the forward pass: over tensor-parallel ranks only what is not divided.

    Args:
        parameters: by name; empty tensors (those that ZeRO 3 has put away) are passed over.

    Raises:
        ValueError: some differ; the message names the first, and the ranks.
    """
    names = sorted(name for name, tensor in parameters.items() if tensor.numel())
    if not names:
        return
    sums = torch.stack([bit_sum(parameters[name]) for name in names])
    for group, what in ((topology.dp_group, "data"), (topology.tp_group, "tensor")):
        if group is None or dist.get_world_size(group) == 1:
            continue
        found = [torch.empty_like(sums) for _ in range(dist.get_world_size(group))]
        dist.all_gather(found, sums, group=group)
        for number, name in enumerate(names):
            if what == "tensor" and hasattr(parameters[name], "tensor_model_parallel"):  # each has its own part
                continue
            values = [int(theirs[number]) for theirs in found]
            if len(set(values)) > 1:
                odd = [rank for rank, value in enumerate(values) if value != values[0]]
                raise ValueError(
                    f"after step {step} {name} differs between {what}-parallel ranks 0 and {odd} of rank "
                    f"{topology.rank}'s group: look for a fault of this host's memory or devices, or report a bug"
                )


def bit_sum(tensor: Tensor) -> Tensor:
    """A sum over the bit patterns of a tensor, int64; any single changed bit changes it."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(kinds[tensor.element_size()]).to(torch.int64).sum()
