"""Who works on what: claims as files in a folder that all workers share.

A claim is a file made with O_EXCL, so one worker of all that try gets it. It names its owner and a
counter, which a thread of the owner raises every few seconds: a heartbeat. A claim is dead when its
owner was a process of this machine that is gone (seen at once), or when its content has not changed
for `expiry_s` seconds of the *watcher's* monotonic clock: no two machines' clocks are compared. A
dead claim is renamed away, then claimed anew with O_EXCL.

Claims save work and do not guard correctness. A worker that was suspended may wake to find its
claim taken over, and then two of them do the same thing. What they do must therefore be
deterministic and be published by an atomic rename, as shards are: a double claim costs time only.

The heartbeat is written into the open file and not by replacing it: a late heartbeat of an owner
that lost its claim goes into a file that has no name any more, never over the claim of the next
owner, and needs no room on a full disk.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

EXPIRY_S = 90.0
"""Seconds without a heartbeat after which another machine's claim is dead."""
BEATS_PER_EXPIRY = 15


@cache
def this_host() -> str:
    """Name of what process numbers are unique in: host, boot and process namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # Not Linux: the host name has to do.
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
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _read(path: Path) -> bytes | None:
    """A claim's content; what stands for it where another user keeps it to himself: a heartbeat changes that too."""
    try:
        try:
            return path.read_bytes()
        except PermissionError:
            return f"changed at {path.stat().st_mtime_ns}".encode()
    except FileNotFoundError:
        return None


def _owner(content: bytes | None) -> dict[str, Any]:
    """Owner as a claim's content names it; empty while the claim is being made."""
    try:
        return dict(json.loads(content or b"{}"))
    except (ValueError, TypeError):
        return {}


class Claim:
    """A claim that this process holds, with its heartbeat; a context manager that releases it."""

    def __init__(self, path: Path, handle: int, beat_s: float) -> None:
        self._path = path
        self._handle = handle
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        pid = os.getpid()
        self._words = {"host": this_host(), "pid": pid, "started": process_start(pid), "token": self._token}
        self._beats = 0
        self._write()
        self._thread = threading.Thread(target=self._beat, args=(beat_s,), daemon=True)
        self._thread.start()

    def _write(self) -> None:
        # Fixed width: a heartbeat overwrites in place, and a reader between two of them sees JSON of one length.
        content = json.dumps(self._words)[:-1] + f', "beats": {self._beats:12d}}}'
        os.pwrite(self._handle, content.encode(), 0)

    def _beat(self, beat_s: float) -> None:
        while not self._released.wait(beat_s):
            self._beats += 1
            try:
                self._write()
                os.fsync(self._handle)  # Other machines of a network file system see it now, not at the close.
            except OSError:
                continue  # A shared file system may be away for a while; if for long, the claim expires.

    def held(self) -> bool:
        """Whether the claim is still ours: it may have expired while this process was suspended."""
        return _owner(_read(self._path)).get("token") == self._token

    def release(self) -> None:
        """Give the claim up; nothing happens if it is no longer ours."""
        self._released.set()
        self._thread.join()
        if self.held():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Claims:
    """The claims in `folder`, as one worker sees them: it remembers when it last saw each of them change."""

    def __init__(self, folder: Path, *, expiry_s: float = EXPIRY_S) -> None:
        self.folder = folder
        self.expiry_s = expiry_s
        self.poll_s = min(0.5, expiry_s / BEATS_PER_EXPIRY)
        self._seen: dict[str, tuple[bytes, float]] = {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def acquire(self, name: str) -> Claim | None:
        """Claim `name`, from a dead owner if need be; None while a living one has it."""
        path = self._path(name)
        content = _read(path)
        if content is not None and not (self._dead(name, content) and self._remove(path, content)):
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except (FileExistsError, FileNotFoundError):
            return None  # Another worker was quicker, or has just finished and removed the folder.
        try:
            return Claim(path, handle, self.expiry_s / BEATS_PER_EXPIRY)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise

    def hold(self, name: str) -> Claim:
        """Claim `name`, waiting for its owner if it has one."""
        while (claim := self.acquire(name)) is None:
            time.sleep(self.poll_s)
        return claim

    def clear(self, but: str) -> None:
        """Remove all claims except that of `but`: for its owner, when there is no work left."""
        for path in self.folder.iterdir():
            if path != self._path(but):
                path.unlink(missing_ok=True)

    def remove_folder(self) -> None:
        """Remove the folder, unless there is a claim in it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _dead(self, name: str, content: bytes) -> bool:
        """Whether the claim with this content is dead: its process is gone, or it has been silent for too long."""
        now = time.monotonic()
        if name not in self._seen or self._seen[name][0] != content:
            self._seen[name] = (content, now)
        owner = _owner(content)
        if owner.get("host") == this_host() and process_start(owner["pid"]) != owner["started"]:
            return True
        return now - self._seen[name][1] >= self.expiry_s

    def _remove(self, path: Path, content: bytes) -> bool:
        """Take the dead claim with this content away; False if another worker has changed it meanwhile."""
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.dead")
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return True
        moved = _read(aside)
        if moved in (content, None):
            aside.unlink(missing_ok=True)
            return True
        # Between our look and the rename another watcher took the claim over: put its claim back.
        os.rename(aside, path)
        return False


def claims_by_host(folder: Path) -> Counter[str]:
    """How many claims there are in a folder by the host of their owner."""
    owners = (_owner(_read(path)) for path in folder.glob("shard-*.claim"))
    return Counter(str(owner["host"]).partition("/")[0] for owner in owners if owner)
