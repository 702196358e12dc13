"""Settings of a stage's SLURM jobs: nodes, GPUs, time limit, restarts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from imdm_dist.config.setting import require, require_at_least, setting
from imdm_dist.config.time_limit import LEAST_S, minutes_of, only_requeues

LONGEST_WARNING_S = 65_535
"""That sbatch takes."""
_SETTINGS = {
    "nodes": "nodes",
    "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "memory",
    "mem-per-cpu": "memory",
    "mem-per-gpu": "memory",
    "time": "time",
    "time-min": "time",
    "partition": "partition",
    "account": "account",
    "array": "array",
    "signal": "warning_s",
}
"""Options of sbatch that have a setting of their own."""
_OURS = (
    *("output", "error", "open-mode", "job-name", "dependency", "requeue", "no-requeue"),
    *("wrap", "chdir", "parsable", "test-only", "wait"),
)
"""Options of sbatch that jobs are submitted, found or brought back by."""


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a stage asks of SLURM; no result depends on it."""

    nodes: int = setting(1, shapes=False)
    """Machines of a job."""
    gpus_per_node: int = setting(0, shapes=False)
    """GPUs of each machine; 0 asks for none."""
    tasks_per_node: int = setting(0, shapes=False)
    """Processes on each machine; 0 is one for each GPU, or one."""
    cpus_per_task: int = setting(0, shapes=False)
    """Processor cores of each process; 0 leaves it to the site."""
    memory: str = setting("", shapes=False)
    """Memory of each machine, such as 200G; empty leaves it to the site."""
    time: str = setting("", shapes=False)
    """Time limit of a job, as sbatch reads it (24:00:00), but not as minutes:seconds; empty is the partition's."""
    partition: str = setting("", shapes=False)
    """Partition; empty is the site's default."""
    account: str = setting("", shapes=False)
    """Account that is charged; empty is the user's default."""
    array: int = setting(1, shapes=False)
    """Couplings: jobs of this shape that share the shards."""
    warning_s: int = setting(300, shapes=False)
    """Seconds before the time limit at which a job saves and goes back to the queue."""
    restarts: int = setting(3, shapes=False)
    """How often in a row a job goes back to the queue when a process of it dies; the count begins anew with every new
    checkpoint or shard. What the user has to mend (exit code 2) is not tried again."""
    sbatch: tuple[str, ...] = setting((), shapes=False)
    """Further options of sbatch, such as --constraint=h100."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "resources", "nodes", "array")
        counts = ("gpus_per_node", "tasks_per_node", "cpus_per_task", "warning_s", "restarts")
        require_at_least(0, self, "resources", *counts)
        require(
            self.warning_s <= LONGEST_WARNING_S,
            f"resources.warning_s is {self.warning_s}: sbatch takes {LONGEST_WARNING_S} seconds at most",
        )
        if self.time:
            self._check_time()
        for option in self.sbatch:
            self._check_option(option)

    def _check_time(self) -> None:
        try:
            minutes = minutes_of(self.time)
        except ValueError as error:
            raise ValueError(f"resources.time: {error}") from None
        require(
            not re.fullmatch(r"\d+:\d+", self.time),
            f"resources.time={self.time} is minutes and seconds to sbatch: write {self.time}:00 for hours and minutes, "
            f"or {minutes} for minutes",
        )
        least = math.ceil((self.warning_s + LEAST_S) / 60)
        require(
            not only_requeues(minutes, self.warning_s),
            f"resources.time={self.time} is {minutes} minutes, and resources.warning_s={self.warning_s} seconds before "
            f"its end a job goes back to the queue: it would do nothing else; set resources.time to {least} or more "
            "(minutes), or lower resources.warning_s",
        )

    @staticmethod
    def _check_option(option: str) -> None:
        require(
            option.startswith("--"),
            f"resources.sbatch has {option!r}: give options in their long form, --name=value",
        )
        name = option[2:].partition("=")[0]
        require(name not in _SETTINGS, f"resources.sbatch has {option!r}: set resources.{_SETTINGS.get(name)} instead")
        require(name not in _OURS, f"resources.sbatch has {option!r}, which jobs are given by themselves: leave it out")

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    def of_one_process(self) -> ResourcesConfig:
        """The same for a job of a single process: one machine, and one of its GPUs if it has any."""
        return replace(self, nodes=1, gpus_per_node=min(1, self.gpus_per_node), tasks_per_node=1, array=1)

    @property
    def world(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks
