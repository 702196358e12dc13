"""A run in which no step ends any more is ended, with the stacks of all ranks, instead of holding its nodes for ever.

A thread of every rank counts the time since the loop's last sign of life: the end of a step, and the beginning of a
micro-batch, an update, a validation or a save. When it is longer than train.hang_minutes, that rank tells the others
through the launch's key-value store. Every rank writes the stacks of its threads to its log, rank 0 says in one line
who came least far, and all exit with EXIT_HUNG.

Until the first step has ended, START_MINUTES count if they are more: kernels are compiled and a checkpoint is read.
What comes before, packing the data, is not watched; it may take hours. Time in which the process was suspended does not
count.

What is saved: a checkpoint that is being written in the background comes to its end. If moreover every rank has
stopped at the same step and before its update, waiting for data or amid the gradients, weights and moments are those
after the last step, and they are written as a checkpoint: the parked main thread cannot change them, and writing needs
no collective. That is so in one process whose data do not come, and, on hosts, as ZeRO reduces gradients in the
backward pass, with `engine.zero_stage` of 1 or more also when one rank of many does not get its data. On a GPU the copy
to the host queues behind a collective that never ends, and nothing new is saved.

In all other cases the run goes on from the checkpoint before: a rank that has stopped within the update, and without
ZeRO one that waits there for the others' gradients, holds weights of which nobody knows which step they belong to; if a
rank does not answer, since its node is gone or the process is frozen, its part is missing. Saving is given SAVE_S
seconds, so a device or a file system that hangs as well does not keep the process.

Not found: a main thread that holds Python's lock for ever, since no other thread runs then. With several ranks the
others find it; one process alone needs the time limit of its job.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from imdm_dist.parallel.failure import EXIT_HUNG, Log, Watch
from imdm_dist.parallel.topology import LINGER, Topology
from imdm_dist.training.heartbeat import PARTS, Part, Pulse, write_heartbeat
from imdm_dist.training.state import TrainState

INTERVAL = 1.0
"""Seconds between two looks."""
START_MINUTES = 60.0
"""Least allowance of the first step of a process."""
ANSWER_S = 10.0
"""Seconds that rank 0 waits for what the others have to say."""
SAVE_S = 300.0
"""Seconds that a checkpoint may still take."""
_KEY = "imdm_dist/hung"
_DOING: dict[Part, str] = {
    "starting": "starting",
    "data": "waiting for its data",
    "gradients": "amid the gradients",
    "update": "amid the update",
    "record": "reading its loss",
    "validating": "amid a validation",
    "saving": "writing a checkpoint",
    "closing": "closing",
}
Place = tuple[int, Part]


class HangWatch:
    """Ends the process when the loop shows no sign of life.

    Args:
        minutes: train.hang_minutes; 0 watches nothing.
        watch: how ranks tell each other; None in a launch of one.
        log: where the stacks go.
    """

    def __init__(
        self, pulse: Pulse, minutes: float, topology: Topology, watch: Watch | None, log: Log, folder: Path
    ) -> None:
        self.pulse, self.minutes, self.topology, self.watch = pulse, minutes, topology, watch
        self.log, self.folder = log, folder
        self.state: TrainState | None = None
        """Once there is something to save."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="hang watch", daemon=True)
        self._ending = threading.Lock()
        self._places: dict[int, Place] | None = None
        """Where every rank is, as far as they answer; None if rank 0 does not."""
        self._speaks = True
        self._newest = "its newest checkpoint"

    def __enter__(self) -> HangWatch:
        if not self.minutes:
            return self
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
        if not self.minutes:
            return
        with self._ending:  # what the loop has to say, an error too, comes too late once the end has begun
            self._stop.set()
            if self.watch is not None:
                self.watch.on_hang = None
        self._thread.join()

    @property
    def allowance(self) -> float:
        """Minutes without a sign of life that are allowed now."""
        return max(self.minutes, START_MINUTES) if self.pulse.first else self.minutes

    def _look(self) -> None:
        idle, seen, before = 0.0, self.pulse.signs, time.monotonic()
        while not self._stop.wait(INTERVAL):
            now = time.monotonic()
            idle += min(now - before, 2 * INTERVAL)  # more has passed only if this process did not run
            before = now
            if self.pulse.signs != seen:
                idle, seen = 0.0, self.pulse.signs
            elif idle > 60 * self.allowance:
                self.end()

    def end(self) -> None:
        """Write the stacks, save what can be saved, say what happened, exit; it does not return."""
        self._ending.acquire()  # whoever comes second waits here until the process is gone
        self.pulse.hung = True
        # Ends this process also where a file system holds a thread that has Python's lock.
        faulthandler.dump_traceback_later(3 * SAVE_S, exit=True, file=self.log.console)
        self._dump()
        if self.watch is None:
            self._places = {0: self.pulse.place}
        else:
            self.watch.tell_hung()
            _bounded(self._meet, 3 * ANSWER_S)
        _bounded(self._save, SAVE_S)
        _bounded(self._see, ANSWER_S)
        if self._speaks:
            os.write(self.log.console, f"\nerror: {self._message()}\n".encode())
        if self.watch is not None:
            _bounded(self._leave, SAVE_S)
        os._exit(EXIT_HUNG)

    def _dump(self) -> None:
        if self.topology.first:
            os.write(self.log.console, b"\n")
            faulthandler.dump_traceback(self.log.console)
        done, part = self.pulse.place
        with suppress(OSError):
            self.log.path.parent.mkdir(exist_ok=True)
            with open(self.log.path, "ab", buffering=0) as file:
                file.write(f"no sign of life after step {done}, {_DOING[part]}: the stacks of all threads\n".encode())
                faulthandler.dump_traceback(file)

    def _meet(self) -> None:
        """Learn where every rank is. Rank 0 asks them, for the rest of a large launch it is one look."""
        assert self.watch is not None
        store, rank, world = self.watch.store, self.topology.rank, self.topology.world
        store.set(f"{_KEY}/{rank}", json.dumps(self.pulse.place))
        until = time.monotonic() + ANSWER_S * (1 if self.topology.first else 2)
        if self.topology.first:
            places: dict[int, Place] = {}
            while len(places) < world and time.monotonic() < until:
                for other in set(range(world)) - set(places):
                    if store.check([f"{_KEY}/{other}"]):
                        places[other] = json.loads(store.get(f"{_KEY}/{other}"))
                time.sleep(0.1)
            store.set(f"{_KEY}/places", json.dumps(places))
        else:
            self._await(f"{_KEY}/places", until)
            if not store.check([f"{_KEY}/places"]):
                self._speaks = store.add(f"{_KEY}/speakers", 1) == 1
                return
            self._speaks = False
        found = json.loads(store.get(f"{_KEY}/places"))
        self._places = {int(other): (done, part) for other, (done, part) in found.items()}

    def _await(self, key: str, until: float) -> None:
        assert self.watch is not None
        while not self.watch.store.check([key]) and time.monotonic() < until:
            time.sleep(0.2)

    def _save(self) -> None:
        if self.state is None:
            return
        places, done = self._places or {}, self.pulse.place[0]
        whole = [place for place in places.values() if place in ((done, "data"), (done, "gradients"))]
        if len(whole) == self.topology.world and done > self.pulse.saved:
            self.state.save(done, None, background=False)
        else:
            self.state.saver.wait()

    def _see(self) -> None:
        if self.topology.first:
            write_heartbeat(self.pulse, self.folder, self.topology.world)
        latest = self.folder / "latest"
        self._newest = latest.read_text(encoding="utf-8").strip() if latest.exists() else "the beginning"

    def _leave(self) -> None:
        """Nobody goes before rank 0 has spoken: a launcher ends all when one exits, and it has the checkpoint too."""
        assert self.watch is not None
        if self._places is not None:
            if self._speaks:
                self.watch.store.set(f"{_KEY}/over", "")
            else:
                self._await(f"{_KEY}/over", time.monotonic() + SAVE_S)
        time.sleep(LINGER)

    def _message(self) -> str:
        places = self._places or {}
        missing = sorted(set(range(self.topology.world)) - set(places)) if places else [0]
        if missing:
            who, what = missing, "not answering"
        else:
            least = min(places.values(), key=lambda place: (place[0], PARTS.index(place[1])))
            who, what = [rank for rank in sorted(places) if places[rank] == least], _DOING[least[1]]
            if least[1] not in ("starting", "closing"):
                what = f"at step {least[0] + 1}, {what}"
        ranks = f"rank{'s' * (len(who) > 1)} {', '.join(map(str, who[:8]))}{' and more' * (len(who) > 8)}"
        stacks = self.log.path.with_name(self.log.path.name.replace(f"rank-{self.topology.rank:05d}", "rank-*"))
        return (
            f"{ranks} stopped ({what}), for {self.allowance:g} minutes nothing has moved (train.hang_minutes): see the "
            f"stacks of all ranks in {stacks}; the same command goes on from {self._newest}"
        )


def _bounded(function: Callable[[], None], seconds: float) -> None:
    """Call `function` and wait for it no longer than `seconds`; what it raises is printed and passed over."""

    def call() -> None:
        try:
            function()
        except Exception as error:
            print(f"while ending: {error}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
