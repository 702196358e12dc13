"""Where the parts of the test cluster are: its folder, ports and sizes."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER_VARIABLE = "IMDM_SLURM_DIR"
GRACE_SECONDS = 20  # what a job that is preempted gets


@dataclass(frozen=True)
class Layout:
    """A cluster of `nodes` nodes of equal size; GPUs, processors and memory are numbers that SLURM counts with.

    The sizes are those of a common 8-GPU node, so that batch scripts made for one fit.
    """

    folder: Path
    nodes: int = 4
    gpus: int = 8
    cpus: int = 128
    memory_mib: int = 1_000_000
    port: int = 6817

    @property
    def names(self) -> list[str]:
        """The nodes' names, which are their host names too."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def node_ports(self) -> tuple[int, int]:
        """First and last port of the nodes' slurmd."""
        return self.port + 1, self.port + self.nodes

    @property
    def accounting_port(self) -> int:
        """Port of slurmdbd."""
        return self.port + self.nodes + 1

    @property
    def client_conf(self) -> Path:
        """What SLURM_CONF names for sbatch, srun and the other clients."""
        return self.folder / "slurm.conf"

    @property
    def daemon_conf(self) -> Path:
        """What slurmctld and slurmd read, and SLURM_CONF names inside jobs."""
        return self.folder / "daemon.conf"

    @property
    def accounting_conf(self) -> Path:
        """What slurmdbd reads; it looks for this name beside SLURM_CONF."""
        return self.folder / "slurmdbd.conf"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge" / "munge.socket"

    @property
    def database_socket(self) -> Path:
        return self.folder / "run" / "mariadb.socket"

    def pid_file(self, name: str) -> Path:
        """Where the process id of a daemon, a node's slurmd (`node1`) or a node's holder (`node1.holder`) is."""
        return self.folder / "run" / f"{name}.pid"

    @property
    def lock(self) -> Path:
        """Locked (flock) by whoever uses the cluster; beside the folder, which comes and goes."""
        return self.folder.with_name(self.folder.name + ".lock")


def default_folder() -> Path:
    """The state folder: $IMDM_SLURM_DIR, or one in the system's folder for temporary files."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir(), "imdm-slurm")).absolute()


def save_layout(layout: Layout) -> None:
    """Claim the folder for this layout.

    Raises:
        ValueError: the folder holds other things, which taking the cluster down would remove.
    """
    file = layout.folder / "layout.json"
    if not file.exists() and layout.folder.exists() and any(layout.folder.iterdir()):
        raise ValueError(f"{layout.folder} holds other files: name a new folder by {FOLDER_VARIABLE}")
    layout.folder.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in asdict(layout).items() if name != "folder"}
    file.write_text(json.dumps(values) + "\n", encoding="utf-8")


def load_layout(folder: Path) -> Layout | None:
    """The layout of the cluster in `folder`, or None if none was made there."""
    try:
        values = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Layout(folder, **values)
