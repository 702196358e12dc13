"""Where a process stands in a launch: plain python (one process), torchrun, or srun."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from imdm_dist.device import default_device

TIMEOUT = timedelta(minutes=30)
"""How long a collective may wait for a slow rank; a dead one is found otherwise (`failure.py`)."""
FIRST_PORT, PORTS = 20_000, 12_000
"""Where processes meet: below the ports that systems hand out for connections by themselves."""


@dataclass(frozen=True)
class Place:
    """One process of a launch."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Place among the processes of this host."""
    init_method: str = ""
    """Where the processes meet; empty if there is one."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return default_device(self.local_rank)

    def join(self) -> None:
        """Join the process group of the launch, unless that has been done."""
        if dist.is_initialized():
            return
        device = self.device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if self.init_method:
            dist.init_process_group(
                backend, init_method=self.init_method, rank=self.rank, world_size=self.world, timeout=TIMEOUT
            )
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def place_of_this_process() -> Place:
    """Read the environment that torchrun or srun gives its processes; without one there is a single process."""
    have = os.environ
    if "RANK" in have and "WORLD_SIZE" in have:
        return Place(int(have["RANK"]), int(have["WORLD_SIZE"]), int(have.get("LOCAL_RANK", 0)), "env://")
    # A batch script has SLURM_PROCID too, yet is one process: only the steps of srun know their own task count.
    if "SLURM_STEP_ID" in have and int(have.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        host = have.get("MASTER_ADDR") or first_host(have["SLURM_STEP_NODELIST"])
        # Our own launcher has looked for a free port; a bare srun gets one that other jobs seldom have.
        port = (
            have.get("MASTER_PORT")
            or FIRST_PORT + int(have["SLURM_JOB_ID"]) * 7 % PORTS + int(have["SLURM_STEP_ID"]) % 7
        )
        return Place(
            int(have["SLURM_PROCID"]),
            int(have["SLURM_STEP_NUM_TASKS"]),
            int(have["SLURM_LOCALID"]),
            f"tcp://{host}:{port}",
        )
    return Place()


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it.

    Raises:
        ValueError: scontrol is not to be had.
    """
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"scontrol does not tell the first host of {nodes} ({error}): set MASTER_ADDR to its name, for instance "
            "where this runs in a container"
        ) from None
