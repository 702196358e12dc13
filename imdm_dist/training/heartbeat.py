"""The heartbeat of a run: heartbeat.json says how far it is, from the status that the loop keeps as it goes.

The loop only sets attributes; a thread of rank 0 writes the file every few seconds. Neither waits for the device. The
file is replaced and never synced: it is worth nothing after a power cut, and a full disk only makes it grow old.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from imdm_dist import run_files
from imdm_dist.files import read_record
from imdm_dist.parallel.environment import env_number
from imdm_dist.parallel.topology import Topology

INTERVAL = 5.0
"""Seconds between two beats."""
RECENT = 50
"""Steps over which the seconds per step are averaged."""
Part = Literal["starting", "data", "gradients", "update", "record", "validating", "saving", "closing"]
"""What the loop is at, in the order of a step."""
PARTS: tuple[Part, ...] = get_args(Part)
End = Literal["finished", "stopped", "failed", "hung"]


class LoopStatus:
    """Where the loop of this rank is; the loop sets it, the threads of heartbeat and watchdog read it.

    Args:
        done: steps done before.
        last: steps in all.
    """

    def __init__(self, done: int, last: int) -> None:
        self.last = last
        self.place: tuple[int, Part] = (done, "starting")
        """Steps done, and what the step after them is at; for one that is starting or closing, the run."""
        self.signs = 0
        """Marks made so far."""
        self.first = True
        """Whether no step has ended yet in this process."""
        self.loss: float | None = None
        self.tokens_per_s: float | None = None
        self.end: End | None = None
        """How it ended, once it has."""
        self._ends: deque[float] = deque(maxlen=RECENT + 1)

    def at(self, part: Part) -> None:
        """Mark that the next part of a step begins."""
        self._mark((self.place[0], part))

    def end_step(self, done: int) -> None:
        """Mark that step `done` has ended."""
        self.first = False
        self._ends.append(time.monotonic())
        self._mark((done, "data"))

    def _mark(self, place: tuple[int, Part]) -> None:
        self.place = place
        self.signs += 1

    @property
    def trained(self) -> int:
        """Steps whose update is made."""
        done, part = self.place
        return done + (part in ("record", "validating", "saving"))

    def record(self, loss: float | None, tokens_per_s: float) -> None:
        """Note what the last line of the record says."""
        self.loss, self.tokens_per_s = loss, tokens_per_s

    def seconds_per_step(self) -> float | None:
        """Mean of the last steps, saving and validation included; None before there are two."""
        ends = list(self._ends)
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None


@dataclass(frozen=True)
class Heartbeat:
    """What heartbeat.json says."""

    step: int
    """Steps done."""
    last: int
    """Steps in all."""
    state: str
    """starting, training, validating, saving or closing; at the end finished, stopped, failed or hung."""
    time: float
    """Seconds since the epoch by the clock of the host that wrote it."""
    seconds_per_step: float | None
    """Over the last steps, saving and validation included."""
    loss: float | None
    """Of the record's last line."""
    tokens_per_s: float | None
    """Of the record's last line."""
    job: str
    """SLURM_JOB_ID, empty outside of SLURM."""
    restarts: int
    """SLURM_RESTART_COUNT."""
    host: str
    pid: int
    world: int

    @property
    def age(self) -> float:
        """Seconds since the beat by the clock of this host: as good as the two hosts' clocks agree, and 0 or more."""
        return max(0.0, time.time() - self.time)

    @property
    def ended(self) -> bool:
        """Whether the process said that it ends. One that was killed could not: it beats no more."""
        return self.state in get_args(End)

    @property
    def time_left(self) -> float | None:
        """Seconds of training left when it beat, at the pace of the last steps; None while that is not known."""
        return None if self.seconds_per_step is None else (self.last - self.step) * self.seconds_per_step


def read_heartbeat(folder: Path | str) -> Heartbeat | None:
    """The last heartbeat of a run; None if it has not begun, or a power cut took it.

    Raises:
        ValueError: the file is no heartbeat.
    """
    beat = read_record(Path(folder) / run_files.HEARTBEAT)
    try:
        return None if beat is None else Heartbeat(**beat)
    except TypeError as error:
        raise ValueError(f"{folder}/{run_files.HEARTBEAT} is no heartbeat ({error}): remove it") from None


def write_heartbeat(status: LoopStatus, folder: Path, world: int) -> None:
    """Replace the file; what the disk has against it is passed over."""
    done, part = status.place
    doing = "training" if part in ("data", "gradients", "update", "record") else part
    beat = Heartbeat(
        step=done,
        last=status.last,
        state=status.end or doing,
        time=time.time(),
        seconds_per_step=status.seconds_per_step(),
        loss=status.loss,
        tokens_per_s=status.tokens_per_s,
        job=os.environ.get("SLURM_JOB_ID", ""),
        restarts=env_number("SLURM_RESTART_COUNT", 0),
        host=socket.gethostname(),
        pid=os.getpid(),
        world=world,
    )
    # Not among the leftovers that are removed when a run starts: this thread lives by then.
    aside = folder / f".{run_files.HEARTBEAT}.next"
    with suppress(OSError):
        aside.write_text(json.dumps(asdict(beat)) + "\n", encoding="utf-8")
        os.replace(aside, folder / run_files.HEARTBEAT)


@contextmanager
def heartbeat(status: LoopStatus, folder: Path, topology: Topology) -> Iterator[None]:
    """Keep heartbeat.json up to date while inside; rank 0 does."""
    stop = threading.Event()

    def beat() -> None:
        write_heartbeat(status, folder, topology.world)
        while not stop.wait(INTERVAL):
            write_heartbeat(status, folder, topology.world)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    if topology.first:
        thread.start()
    try:
        yield
    except KeyboardInterrupt:
        status.end = "stopped"
        raise
    except BaseException:
        status.end = "failed"
        raise
    finally:
        if topology.first:
            stop.set()
            thread.join(INTERVAL)
            write_heartbeat(status, folder, topology.world)
