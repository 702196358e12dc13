"""Stopping a run in good order: a signal or the time budget asks, all ranks agree, then there is one save."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from imdm_dist.config.training import TrainConfig
from imdm_dist.parallel.topology import Topology
from imdm_dist.signals import SIGNALS, noted


class StopRequest:
    """Says, on every rank at the same step, that the run should stop.

    While it is entered, SIGTERM, SIGUSR1 and SIGUSR2 only set a flag, on whatever rank they come; one that was noted
    before counts too. Handlers that were there before are called too and are put back on exit.

    Args:
        config: its time_budget counts from here.
    """

    def __init__(self, topology: Topology, config: TrainConfig) -> None:
        self.topology = topology
        self._until = time.monotonic() + 60 * config.time_budget if config.time_budget else float("inf")
        self._cause = noted()
        self._flags = torch.zeros(2, dtype=torch.int32)
        self._work: Any = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handler(signal.getsignal(number)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handler(self, before: Any) -> Callable[[int, FrameType | None], None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._cause = signal.Signals(number).name
            if callable(before) and before is not signal.default_int_handler:
                before(number, frame)

        return note

    def agreed(self, save_failed: bool = False) -> tuple[bool, bool]:
        """Whether any rank had been asked to stop one step ago, and whether any had failed to save.

        Every rank calls this once a step. The answer comes a step late so that nobody waits for it: the exchange runs
        on the host beside the step.
        """
        if time.monotonic() > self._until and self._cause is None:
            self._cause = "the time budget"
        if self._work is not None:
            self._work.wait()
        stopping, failed = self._flags.bool().tolist()
        # What all have just heard of is dealt with now, and not told once more.
        self._flags = torch.tensor([self._cause is not None, save_failed and not failed], dtype=torch.int32)
        self._work = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self.topology.control, async_op=True)
        return stopping, failed

    def asked(self) -> bool:
        """Whether any rank has been asked to stop up to now; all ranks wait for each other."""
        flag = torch.tensor(int(self._cause is not None), dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.topology.control)
        return bool(flag)

    def report(self, folder: Path, done: int, last: int) -> None:
        """Say on the console that the run stopped early."""
        if self.topology.first:
            cause = self._cause or "a signal to another rank"
            print(
                f"{folder} stopped at step {done} of {last} ({cause}): run the same command to go on", file=sys.stderr
            )
