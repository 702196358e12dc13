"""What a stage asks of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from imdm_dist.config.require import require


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a stage asks of SLURM; no result depends on it."""

    nodes: int = 1
    """Machines of a job."""
    gpus_per_node: int = 0
    """GPUs of each machine; 0 asks for none."""
    tasks_per_node: int = 0
    """Processes on each machine; 0 is one for each GPU, or one."""
    cpus_per_task: int = 0
    """Processor cores of each process; 0 leaves it to the site."""
    memory: str = ""
    """Memory of each machine, such as 200G; empty leaves it to the site."""
    time: str = ""
    """Time limit of a job, as sbatch reads it (24:00:00); empty is the partition's."""
    partition: str = ""
    """Partition; empty is the site's default."""
    account: str = ""
    """Account that is charged; empty is the user's default."""
    array: int = 1
    """Couplings: jobs of this shape that share the shards."""
    warning_s: int = 300
    """Seconds before the time limit at which a job saves and goes back to the queue."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, such as --constraint=h100."""

    def __post_init__(self) -> None:
        for name in ("nodes", "array"):
            require(getattr(self, name) >= 1, f"resources.{name} is {getattr(self, name)}: set it to 1 or more")
        for name in ("gpus_per_node", "tasks_per_node", "cpus_per_task", "warning_s"):
            require(getattr(self, name) >= 0, f"resources.{name} is {getattr(self, name)}: set it to 0 or more")
        for option in self.sbatch:
            require(
                option.startswith("--"),
                f"resources.sbatch has {option!r}: give options in their long form, --name=value",
            )

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks
