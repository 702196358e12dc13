"""The watchdog of a run: when no step ends any more, all ranks write their stacks and exit.

A thread of every rank counts the time since the loop's last sign of life: the end of a step, and the beginning of a
micro-batch, an update, a validation or a save. When it is longer than train.hang_minutes, that rank says so in the
launch's key-value store, where the failure watch of the others finds it. Every rank writes the stacks of its threads to
its log and where it is to the store; the first rank that has done so says in one line which rank came least far; all
exit with EXIT_HUNG. Where the store does not answer, as when rank 0, which keeps it, is frozen, each says its line.

Until the first step has ended, START_MINUTES count if they are more: kernels are compiled and a checkpoint is read.
What comes before, packing the data, is not watched. Time in which the process was suspended does not count. No
checkpoint is written: nobody knows which step the weights amid a hang belong to.

Not found: a main thread that holds Python's lock for ever, since no other thread runs then. With several ranks the
others find it; one process alone needs the time limit of its job.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from imdm_dist.exit_codes import EXIT_HUNG
from imdm_dist.parallel.failure import FailureWatch, Log
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.heartbeat import PARTS, LoopStatus, Part, write_heartbeat

INTERVAL = 1.0
"""Seconds between two looks."""
START_MINUTES = 60.0
"""Least allowance of the first step of a process."""
ANSWER_S = 5.0
"""Seconds that the ranks have for their stacks, and the store for an answer."""
T = TypeVar("T")


class Watchdog:
    """Ends the process when the loop shows no sign of life.

    Args:
        minutes: train.hang_minutes, above 0.
        watch: how ranks tell each other; None in a launch of one.
        log: where the stacks go.
        folder: of the run.
    """

    def __init__(
        self,
        status: LoopStatus,
        minutes: float,
        topology: Topology,
        watch: FailureWatch | None,
        log: Log,
        folder: Path,
    ) -> None:
        self.status, self.minutes, self.topology, self.watch = status, minutes, topology, watch
        self.log, self.folder = log, folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._ending = threading.Lock()

    def __enter__(self) -> Watchdog:
        if self.watch is not None:
            self.watch.on_hang = self.end
            # A collective that gives up first would end the run without the stacks, as a failure of the wrong rank.
            longest = timedelta(minutes=2 * max(self.minutes, START_MINUTES))
            topology = self.topology
            for group in (None, topology.control, topology.dp_group, topology.tp_group):
                dist.distributed_c10d._set_pg_timeout(longest, group)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._ending:  # what the loop has to say, an error too, comes too late once the end has begun
            self._stop.set()
            if self.watch is not None:
                self.watch.on_hang = None
        self._thread.join()

    @property
    def allowance(self) -> float:
        """Minutes without a sign of life that are allowed now."""
        return max(self.minutes, START_MINUTES) if self.status.first else self.minutes

    def _look(self) -> None:
        idle, seen, before = 0.0, self.status.signs, time.monotonic()
        while not self._stop.wait(INTERVAL):
            now = time.monotonic()
            idle += min(now - before, 2 * INTERVAL)  # more has passed only if this process did not run
            before = now
            if self.status.signs != seen:
                idle, seen = 0.0, self.status.signs
            elif idle > 60 * self.allowance:
                self.end()

    def end(self) -> None:
        """Write the stacks, say what happened, exit; it does not return."""
        self._ending.acquire()  # whoever comes second waits here until the process is gone
        self.status.end = "hung"
        _bounded(self._write_stacks)
        rank, places = self.topology.rank, {self.topology.rank: self.status.place}
        speaks = True
        if (watch := self.watch) is not None:
            _bounded(lambda: watch.tell_hung(self.status.place))
            time.sleep(ANSWER_S)
            try:
                places = ThreadPoolExecutor(1).submit(watch.hung_places).result(ANSWER_S)
            except TimeoutError:  # rank 0, which has the store, does not answer either
                places = {}
            except Exception:  # rank 0 has gone: it has spoken
                speaks = rank == 0
        if speaks and min(places, default=rank) == rank:
            os.write(self.log.console, f"\nerror: {self._line(places)}\n".encode())
        else:
            time.sleep(ANSWER_S)  # a launcher ends all when one exits: the one who speaks goes before
        os._exit(EXIT_HUNG)

    def _write_stacks(self) -> None:
        done, part = self.status.place
        if self.topology.first:
            os.write(self.log.console, b"\n")
            faulthandler.dump_traceback(self.log.console)
            write_heartbeat(self.status, self.folder, self.topology.world)
        self.log.path.parent.mkdir(exist_ok=True)
        with open(self.log.path, "ab", buffering=0) as file:
            file.write(f"no sign of life after step {done} ({part}): the stacks of all threads\n".encode())
            faulthandler.dump_traceback(file)

    def _line(self, places: dict[int, tuple[int, Part]]) -> str:
        """What happened.

        Args:
            places: where ranks are; without any it is rank 0, in whose store they are, that does not answer.
        """
        who, where = sorted(set(range(self.topology.world)) - set(places)) if places else [0], "not answering"
        if not who:
            least = done, part = min(places.values(), key=lambda place: (place[0], PARTS.index(place[1])))
            who = [rank for rank in sorted(places) if places[rank] == least]
            where = part if part in ("starting", "closing") else f"at step {done + 1}, {part}"
        ranks = f"rank{'s' * (len(who) > 1)} {', '.join(map(str, who[:8]))}{' and more' * (len(who) > 8)}"
        stacks = self.log.path.with_name(self.log.path.name.replace(f"rank-{self.topology.rank:05d}", "rank-*"))
        return (
            f"{ranks} stopped ({where}), for {self.allowance:g} minutes nothing has moved (train.hang_minutes): see "
            f"the stacks of all ranks in {stacks}; the same command goes on from the newest checkpoint"
        )


def _bounded(function: Callable[[], T]) -> T | None:
    """What `function` returns; None if it fails, or takes too long as on a file system or a store that hangs."""
    with suppress(Exception):
        return ThreadPoolExecutor(1).submit(function).result(ANSWER_S)
    return None
