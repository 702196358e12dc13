"""Start and stop the daemons of the test cluster, one function each, without systemd.

Each start does nothing if its daemon runs, and returns when the daemon listens: a client that finds it not yet
listening would wait for ten seconds. A node is a slurmd in a UTS namespace of its own: `hostname` in a job is the
node's name, and the namespace tells which node a process belongs to.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.layout import Layout

START_SECONDS = 30.0
STOP_SECONDS = 10.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean_environment() -> dict[str, str]:
    """This process's environment, with the system's commands in PATH and without what a SLURM job or user set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SALLOC_"))
    }
    kept["PATH"] = ":".join(filter(None, [kept.get("PATH"), SYSTEM_PATH]))
    return kept


def await_true(condition: Callable[[], bool], what: str, seconds: float, every: float = 0.05) -> None:
    """Ask `condition` until it holds.

    Raises:
        TimeoutError: `what` did not happen in `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} seconds")
        time.sleep(every)


def running(layout: Layout, name: str, command: str) -> int | None:
    """Process id of a daemon, or None if it does not run: gone, a zombie, or another program with its number."""
    try:
        pid = int(layout.pid_file(name).read_text())
        status = Path(f"/proc/{pid}/status").read_text()
    except (OSError, ValueError):
        return None
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return pid if fields["Name"] == command and fields["State"][0] not in "ZX" else None


def start_munged(layout: Layout) -> None:
    """The service that signs what daemons and clients say to each other."""
    if running(layout, "munged", "munged"):
        return
    folder = layout.munge_socket.parent
    key = folder / "munge.key"
    if not key.exists():
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(128))
    options = {
        "key-file": key,
        "seed-file": folder / "munge.seed",
        "socket": layout.munge_socket,
        "pid-file": layout.pid_file("munged"),
        "log-file": layout.logs / "munged.log",
    }
    _run(layout, "munged", ["munged", *(f"--{option}={value}" for option, value in options.items())])


def start_mariadbd(layout: Layout) -> None:
    """The database behind slurmdbd, at a socket only."""
    if running(layout, "mariadbd", "mariadbd"):
        return
    data = layout.folder / "database"
    if not (data / "mysql").is_dir():
        _run(
            layout,
            "mariadb-install-db",
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"],
        )
    layout.database_socket.unlink(missing_ok=True)
    options = [
        f"--datadir={data}",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.pid_file('mariadbd')}",
        f"--log-error={layout.logs}/mariadbd.log",
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    ]
    _run(layout, "mariadbd", ["setsid", "--fork", "mariadbd", "--no-defaults", "--user=root", *options])
    _await_start(layout, "mariadbd", layout.database_socket.exists)


def start_slurmdbd(layout: Layout) -> None:
    """Accounting: what sacct, and through it Submitit, asks."""
    if running(layout, "slurmdbd", "slurmdbd"):
        return
    _check_free(layout.accounting_port)
    _run(
        layout,
        "slurmdbd",
        ["unshare", "--uts", "sh", "-c", "hostname localhost && exec slurmdbd"],
        MYSQL_UNIX_PORT=str(layout.database_socket),
    )
    _await_start(layout, "slurmdbd", lambda: _listens(layout.accounting_port))
    known = ["sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=cluster"]
    _await_start(layout, "slurmdbd", lambda: ask(layout, known).returncode == 0)
    if "imdmtest" not in ask(layout, known).stdout.split():
        _run(layout, "sacctmgr", ["sacctmgr", "--immediate", "--quiet", "add", "cluster", "imdmtest"])


def start_slurmctld(layout: Layout) -> None:
    """The controller."""
    if running(layout, "slurmctld", "slurmctld"):
        return
    _check_free(layout.port)
    command = 'hostname localhost && exec slurmctld -f "$0"'
    _run(layout, "slurmctld", ["unshare", "--uts", "sh", "-c", command, str(layout.daemon_conf)])
    _await_start(layout, "slurmctld", lambda: _listens(layout.port))


def start_node(layout: Layout, name: str) -> None:
    """One node. A sleeping process holds its namespace, so that a slurmd started anew finds its jobs' processes."""
    holder = f"{name}.holder"
    if not running(layout, holder, "sleep"):
        kill_node(layout, name)  # what is left in a namespace that nobody could enter any more
        command = 'hostname "$0" && echo $$ >"$1" && exec sleep infinity'
        inside = ["unshare", "--uts", "sh", "-c", command, name, str(layout.pid_file(holder))]
        _run(layout, name, ["setsid", "--fork", *inside])
        _await_start(layout, name, lambda: running(layout, holder, "sleep") is not None)
    if running(layout, name, "slurmd"):
        return
    port = layout.node_ports[0] + layout.names.index(name)
    _check_free(port)
    (layout.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
    inside = ["nsenter", "--uts", f"--target={running(layout, holder, 'sleep')}"]
    _run(layout, name, [*inside, "slurmd", "-f", str(layout.daemon_conf)])
    _await_start(layout, name, lambda: _listens(port))


def kill_node(layout: Layout, name: str) -> None:
    """Kill whatever runs on a node, at once, as a loss of power would; nothing if it is not up."""
    holder = running(layout, f"{name}.holder", "sleep") or running(layout, name, "slurmd")
    if holder is None:
        return
    space = os.readlink(f"/proc/{holder}/ns/uts")
    assert space != os.readlink("/proc/self/ns/uts"), "the node shares the host's namespace"
    # Until nothing is found, for processes fork meanwhile. The holder goes last: as long as it lives, no other
    # namespace gets this one's number.
    while victims := [pid for pid in _processes_in(space) if pid != holder]:
        for pid in victims:
            _send(pid, signal.SIGKILL)
        time.sleep(0.01)
    _send(holder, signal.SIGKILL)
    for ending in ("", ".holder"):
        layout.pid_file(name + ending).unlink(missing_ok=True)


def stop_daemon(layout: Layout, name: str) -> None:
    """End a daemon by SIGTERM, or by SIGKILL if that takes too long; its pid file may go before it is done."""
    pid = running(layout, name, name)
    if pid is None:
        return
    layout.pid_file(name).write_text(f"{pid}\n")
    _send(pid, signal.SIGTERM)
    try:
        await_true(lambda: not alive(pid), f"{name} ends", STOP_SECONDS)
    except TimeoutError:
        _send(pid, signal.SIGKILL)


def _processes_in(space: str) -> list[int]:
    """Living processes in a UTS namespace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(folder / "ns" / "uts") == space and alive(int(folder.name)):
                found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but is not reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _check_free(port: int) -> None:
    if _listens(port):
        raise ValueError(f"port {port} is taken, perhaps by another SLURM on this host: stop that first")


def _await_start(layout: Layout, name: str, condition: Callable[[], bool]) -> None:
    await_true(condition, f"{name} starts (see {layout.logs})", START_SECONDS)


def ask(layout: Layout, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a client of SLURM, such as sinfo; its output is in the result."""
    environment = clean_environment() | {"SLURM_CONF": str(layout.client_conf)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_SECONDS, check=False)


def _run(layout: Layout, name: str, command: Sequence[str], **environment: str) -> None:
    """Run a command that ends, its output into log/NAME.start.log; what it leaves behind is a daemon."""
    log = layout.logs / f"{name}.start.log"
    with open(log, "a", encoding="utf-8") as output:
        result = subprocess.run(
            command,
            env=clean_environment() | {"SLURM_CONF": str(layout.client_conf)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            timeout=START_SECONDS,
            check=False,
        )
    if result.returncode:
        raise ValueError(f"{command[0]} ended with {result.returncode} while {name} was started: see {log}")
