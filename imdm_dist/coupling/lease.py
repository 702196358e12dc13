"""Leases: which worker makes which shard, told by files in a folder that all workers share.

A lease is a file made with O_EXCL, so one worker of all that try gets it. A thread of its owner renews it every few
seconds by setting the file's time, and it lapses when its owner was a process of this machine that is gone (seen at
once), or when the file has not changed for `expiry_s` seconds of the *watcher's* monotonic clock. Whether it changes
counts, never what the time says: no two machines' clocks are compared. A lapsed lease is removed, and whoever makes the
file anew has it.

Leases save work and do not guard correctness. A worker that was suspended may wake to find its lease taken over, and
two watchers may take over one lease; then two workers do the same thing, which costs time only. What they do must
therefore be idempotent: deterministic and published by an atomic rename, as shards are.

Why not the library filelock, whose SoftFileLease works in the same way: release 4.2 takes over a lapsed lease only
where the file system can exchange two names in one step. NFS cannot: the shard of a dead worker would never be made.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

EXPIRY_S = 90.0
"""Seconds without a renewal after which another machine's lease has lapsed."""
RENEWALS = 15
"""In that time, while the owner lives."""


@cache
def this_host() -> str:
    """Name of what process numbers are unique in: host, boot and process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # not Linux: the host name has to do
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)


def process_start(pid: int) -> str | None:
    """When process `pid` of this host was started (ticks since boot; "" where unknown), None if it is gone.

    A killed process that its parent has not collected yet is gone.
    """
    try:
        # The command in parentheses may hold anything; state is the 1st and start time the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return "" if psutil.pid_exists(pid) and not Path("/proc/self/stat").exists() else None


Look = tuple[int, int, str]
"""A lease's file as it was found: inode, time of change in ns, owner as JSON, empty where that cannot be read (yet)."""


def _look(path: Path) -> Look | None:
    owner = ""
    try:
        with suppress(PermissionError):  # another user keeps it to himself
            owner = path.read_text(errors="replace")  # first: opening has a network file system ask for the time anew
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, owner


def _owner(look: Look | None) -> dict[str, Any]:
    try:
        return dict(json.loads(look[2] if look else ""))
    except (ValueError, TypeError):
        return {}


class Lease(AbstractContextManager["Lease"]):
    """A lease that this process holds and renews; a context manager that releases it."""

    def __init__(self, path: Path, handle: int, renew_s: float) -> None:
        self._path = path
        # Open all the while: a late renewal by an owner that lost its lease must not reach the next owner's file.
        self._handle = handle
        owner = {"host": this_host(), "pid": os.getpid(), "started": process_start(os.getpid())}
        os.write(handle, json.dumps(owner).encode())
        os.fsync(handle)  # other machines of a network file system see it now, not at the close
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(renew_s,), daemon=True)
        self._thread.start()

    def _renew(self, renew_s: float) -> None:
        while not self._released.wait(renew_s):
            with suppress(OSError):  # a shared file system may be away for a while; if for long, the lease lapses
                os.utime(self._handle)

    def held(self) -> bool:
        """Whether the lease is still ours: it may have lapsed while this process was suspended."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        return False

    def release(self) -> None:
        """Give the lease up; nothing happens if it is no longer ours."""
        self._released.set()
        self._thread.join()
        if self.held():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """The leases in `folder`, as one worker sees them: it remembers when it last saw each of them change."""

    def __init__(self, folder: Path, *, expiry_s: float = EXPIRY_S) -> None:
        self.folder = folder
        self.expiry_s = expiry_s
        self.poll_s = min(0.5, expiry_s / RENEWALS)
        self._seen: dict[str, tuple[Look, float]] = {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lease"

    def acquire(self, name: str) -> Lease | None:
        """Take `name`, in the place of one that has lapsed if need be; None while another worker has it."""
        path = self._path(name)
        look = _look(path)
        if look is not None:
            if not self._lapsed(name, look):
                return None
            if _look(path) == look:  # else another watcher has taken it over meanwhile
                path.unlink(missing_ok=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except (FileExistsError, FileNotFoundError):
            return None  # another worker was quicker, or has just finished and removed the folder
        try:
            return Lease(path, handle, self.expiry_s / RENEWALS)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise

    def _lapsed(self, name: str, look: Look) -> bool:
        now = time.monotonic()
        if self._seen.get(name, (None,))[0] != look:
            self._seen[name] = (look, now)
        owner = _owner(look)
        if owner.get("host") == this_host() and process_start(owner["pid"]) != owner["started"]:
            return True
        return now - self._seen[name][1] >= self.expiry_s

    def hold(self, name: str) -> Lease:
        """Take `name`, waiting for its owner if it has one."""
        while (lease := self.acquire(name)) is None:
            time.sleep(self.poll_s)
        return lease

    def clear(self, but: str) -> None:
        """Remove all leases except that of `but`: for its owner, when there is no work left."""
        for path in self.folder.iterdir():
            if path != self._path(but):
                path.unlink(missing_ok=True)

    def remove_folder(self) -> None:
        """Remove the folder, unless there is a lease in it."""
        with suppress(OSError):
            self.folder.rmdir()


def leases_by_host(folder: Path) -> Counter[str]:
    """How many leases there are in a folder by the host of their owner."""
    owners = (_owner(_look(path)) for path in folder.glob("shard-*.lease"))
    return Counter(str(owner["host"]).partition("/")[0] for owner in owners if owner)
