"""Rank and world size of this process, from the environment of its launcher: plain python, torchrun or srun."""

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
class LaunchedProcess:
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
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def this_process() -> LaunchedProcess:
    """Read the environment that torchrun or srun gives its processes; without one there is a single process.

    Raises:
        ValueError: a variable of the launcher is no number, contradicts another, or came without the other.
    """
    have = os.environ
    given = env_number("RANK", 0), env_number("WORLD_SIZE", 1), env_number("LOCAL_RANK", 0)
    port = env_number("MASTER_PORT", 0)
    if "RANK" in have and "WORLD_SIZE" in have:
        return _within(LaunchedProcess(*given, "env://"), "RANK", "WORLD_SIZE")
    # A batch script has SLURM_PROCID too, yet is one process: only the steps of srun know their own task count.
    if "SLURM_STEP_ID" in have and (tasks := env_number("SLURM_STEP_NUM_TASKS", 1)) > 1:
        host = have.get("MASTER_ADDR") or first_host(have["SLURM_STEP_NODELIST"])
        # Our own launcher has looked for a free port; a bare srun gets one that other jobs seldom have.
        port = port or FIRST_PORT + env_number("SLURM_JOB_ID") * 7 % PORTS + env_number("SLURM_STEP_ID") % 7
        process = LaunchedProcess(
            env_number("SLURM_PROCID"), tasks, env_number("SLURM_LOCALID"), f"tcp://{host}:{port}"
        )
        return _within(process, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    # A job script may set one of the two for its own ends; elsewhere it was meant for this process.
    if "SLURM_JOB_ID" not in have and (given[0] > 0 or given[1] > 1):
        there, lacking = ("RANK", "WORLD_SIZE") if "RANK" in have else ("WORLD_SIZE", "RANK")
        raise ValueError(
            f"the environment has {there}={have[there]} but no {lacking}: start this under torchrun or srun, which set "
            f"both, or unset {there} for a single process"
        )
    return LaunchedProcess()


def _within(process: LaunchedProcess, rank: str, world: str) -> LaunchedProcess:
    if process.rank >= process.world:
        raise ValueError(
            f"the environment has {rank}={process.rank} and {world}={process.world}, but ranks count from 0 up to one "
            "less than there are: start this under torchrun or srun, or unset both for a single process"
        )
    return process


def env_number(name: str, default: int | None = None) -> int:
    """A variable that a launcher sets to a whole number.

    Args:
        default: its value where it is not set or empty; None if it must be.

    Raises:
        ValueError: it is no whole number from 0 on, or not set.
    """
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(
            f"the environment has {name}={text!r}, which is no number: unset it, or start this under the launcher that "
            "sets it (torchrun, srun)"
        )
    return int(text)


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
