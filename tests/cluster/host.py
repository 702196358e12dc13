"""Bring the test cluster up and down on this host, and let its nodes fail and come back.

Outside the state folder it touches the packages, which stay, and one marked line in /etc/hosts, which `down` removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import daemons
from tests.cluster.layout import Layout, load_layout, save_layout
from tests.cluster.texts import write_texts

HOSTS = Path("/etc/hosts")
MARK = "# imdm test cluster"
COMMANDS = ("mariadb", "mariadbd", "munged", "sbatch", "slurmctld", "slurmd", "slurmdbd")
PACKAGES = (
    "mariadb-client-core",
    "mariadb-server-core",
    "munge",
    "slurm-client",
    "slurmctld",
    "slurmd",
    "slurmdbd",
)
INSTALL_SECONDS = 600.0
READY = ("idle", "mix", "alloc", "comp")  # what sinfo says of nodes that take jobs


def obstacle() -> str | None:
    """Why no cluster can be brought up on this host, or None."""
    if os.geteuid() != 0:
        return "a test cluster needs root"
    if not Path("/etc/debian_version").exists():
        return "a test cluster needs Debian's packages of SLURM"
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        return "a test cluster needs the right to make UTS namespaces (CAP_SYS_ADMIN)"
    return None


def is_up(folder: Path) -> bool:
    """Whether the controller of the cluster in `folder` runs."""
    layout = load_layout(folder)
    return layout is not None and daemons.running(layout, "slurmctld", "slurmctld") is not None


def up(layout: Layout) -> None:
    """Install what is missing, start what does not run, and return when every node takes jobs.

    Raises:
        ValueError: it cannot be brought up here, or runs with another layout.
        TimeoutError: a daemon does not answer.
    """
    reason = obstacle()
    if reason:
        raise ValueError(f"{reason}: run this as root on a Debian host")
    if is_up(layout.folder) and load_layout(layout.folder) != layout:
        raise ValueError(f"a cluster of other sizes is up in {layout.folder}: take it down first")
    save_layout(layout)
    for part in (".", "log", "munge", "run", "spool", "state"):
        (layout.folder / part).mkdir(exist_ok=True)
        os.chmod(layout.folder / part, 0o755)  # munged wants its folders open to others, whatever the umask
    _install(layout)
    write_hosts(layout)
    write_texts(layout)
    daemons.start_munged(layout)
    daemons.start_mariadbd(layout)
    daemons.start_slurmdbd(layout)
    daemons.start_slurmctld(layout)
    for name in layout.names:
        daemons.start_node(layout, name)
    daemons.await_true(
        lambda: settle(layout), f"all nodes take jobs (see {layout.logs})", daemons.START_SECONDS, every=0.2
    )


def down(folder: Path) -> None:
    """Stop every daemon and job of the cluster in `folder`, and remove the folder; nothing if there is none."""
    layout = load_layout(folder)
    if layout is None:
        return
    for name in layout.names:
        daemons.kill_node(layout, name)
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        daemons.stop_daemon(layout, name)
    write_hosts(None)
    shutil.rmtree(folder)


@contextmanager
def in_use(layout: Layout, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the cluster of this host for oneself.

    Raises:
        ValueError: somebody else held it for all of `wait_seconds`.
    """
    end = time.monotonic() + wait_seconds
    layout.lock.parent.mkdir(parents=True, exist_ok=True)
    with open(layout.lock, "a", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ValueError(f"other tests use the cluster ({layout.lock} is locked): wait for them") from None
                time.sleep(0.2)
        yield


def _install(layout: Layout) -> None:
    path = daemons.clean_environment()["PATH"]
    missing = [command for command in COMMANDS if shutil.which(command, path=path) is None]
    if not missing:
        return
    environment = daemons.clean_environment() | {"DEBIAN_FRONTEND": "noninteractive"}
    log = layout.logs / "install.log"
    with open(log, "a", encoding="utf-8") as output:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            result = subprocess.run(
                ["apt-get", "--quiet", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=INSTALL_SECONDS,
                check=False,
            )
            if result.returncode:
                raise ValueError(f"{', '.join(missing)} did not install: see {log}, or install {' '.join(PACKAGES)}")


def write_hosts(layout: Layout | None) -> None:
    """Give the nodes' names the loopback address, or with None take them back, to the byte.

    Written in place: in a container the file may be a mount, which cannot be replaced.
    """
    before = HOSTS.read_text(encoding="utf-8")
    lines = [line for line in before.split("\n") if not line.endswith(MARK)]
    if layout is not None:
        end = len(lines) - 1 if lines[-1] == "" else len(lines)
        lines.insert(end, f"127.0.0.1 {' '.join(layout.names)} {MARK}")
    after = "\n".join(lines)
    if after != before:
        HOSTS.write_text(after, encoding="utf-8")


def node_states(layout: Layout) -> dict[str, str]:
    """State of each node in sinfo's short form: idle, mix, alloc, comp, down, `down*` (does not answer), ..."""
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t"]
    return dict(line.split() for line in daemons.ask(layout, command).stdout.splitlines())


def settle(layout: Layout, wanted: Collection[str] = READY) -> bool:
    """Let nodes that were set down take jobs again; whether all nodes are in `wanted` states by now."""
    states = node_states(layout)
    for name, state in states.items():
        if state in ("down", "drain", "drng"):
            daemons.ask(layout, ["scontrol", "update", f"nodename={name}", "state=resume"])
    return len(states) == layout.nodes and all(state in wanted for state in states.values())
