"""Topology of a launch: ranks, and the data-parallel and tensor-parallel groups they form.

Groups are megatron-core's. Ranks that share a model are neighbours, so that they are on one node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from imdm_dist.config.model import ModelConfig
from imdm_dist.exit_codes import EXIT_REFUSED
from imdm_dist.parallel.environment import LaunchedProcess, this_process

LINGER = 3.0
"""Seconds that a rank which has to end stays, so that rank 0 can say why: a launcher ends all when the first one exits,
and a connection that breaks is an error of its own."""


@dataclass(frozen=True)
class Topology:
    """The groups of this process."""

    rank: int
    world: int
    tp_rank: int
    """LaunchedProcess among the ranks that share a model."""
    tp: int
    """How many they are."""
    dp_rank: int
    """LaunchedProcess among the ranks that hold the same part of the model and see different data."""
    dp: int
    """How many they are."""
    device: torch.device
    tp_group: ProcessGroup | None
    dp_group: ProcessGroup | None
    control: ProcessGroup | None
    """All ranks, on the host: for what must not wait for a device."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes logs and speaks on the console."""
        return self.rank == 0

    def __str__(self) -> str:
        """The launch in a line, with what was set for NCCL."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        set_for_nccl = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")]
        return ", ".join(
            [
                f"{self.world} processes ({self.tp} tensor parallel x {self.dp} data parallel)",
                f"{dist.get_backend()} on {device}",
                f"{torch.get_num_threads()} threads each",
                *set_for_nccl,
            ]
        )

    def barrier(self) -> None:
        """Wait for all ranks, on the host."""
        dist.barrier(self.control)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def leave(self) -> None:
        """Give the groups back; the processes stay joined."""
        dist.destroy_process_group(self.control)
        if self.world > 1:
            from imdm_dist.parallel.groups import leave_groups

            leave_groups()

    def sum_over_data(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the data-parallel ranks, in place."""
        dist.all_reduce(value, group=self.dp_group)
        return value


def check_topology(world: int, tensor_parallel: int, model: ModelConfig) -> None:
    """Check that a model can be divided so.

    Raises:
        ValueError: it cannot; the message names the numbers that would work.
    """
    parts = model.divisible
    able = [n for n in range(1, min(world, parts) + 1) if parts % n == 0 and world % n == 0]
    if tensor_parallel not in able:
        second = f"model.{model.divided_by}={parts}" if model.divided_by else f"{model.family}, which is not cut"
        raise ValueError(
            f"engine.tensor_parallel={tensor_parallel} must divide both the {world} ranks of this run and "
            f"{second}: set it to one of {', '.join(map(str, able))}"
        )


def form_topology(tensor_parallel: int, model: ModelConfig, process: LaunchedProcess | None = None) -> Topology:
    """Join the other processes of the launch and form the groups.

    Args:
        process: where this process stands in the launch; None reads the launcher's environment.

    Raises:
        ValueError: the ranks cannot be divided so; nothing has been started then.
    """
    process = process or this_process()
    try:
        check_topology(process.world, tensor_parallel, model)
    except ValueError:
        if process.rank > 0:
            time.sleep(LINGER)
            raise SystemExit(EXIT_REFUSED) from None
        raise
    process.join()
    tp_rank, tp_group, dp_group = 0, None, dist.group.WORLD
    if process.world > 1:
        from imdm_dist.parallel.groups import form_groups  # seconds to import, and of no use to one process

        tp_rank, tp_group, dp_group = form_groups(tensor_parallel)
    return Topology(
        rank=process.rank,
        world=process.world,
        tp_rank=tp_rank,
        tp=tensor_parallel,
        dp_rank=process.rank // tensor_parallel,
        dp=process.world // tensor_parallel,
        device=process.device,
        tp_group=tp_group,
        dp_group=dp_group,
        control=dist.new_group(backend="gloo"),
    )


@contextmanager
def joined(tensor_parallel: int, model: ModelConfig, process: LaunchedProcess | None = None) -> Iterator[Topology]:
    """`form_topology`, and give the groups back at the end."""
    topology = form_topology(tensor_parallel, model, process)
    try:
        yield topology
    finally:
        topology.leave()
