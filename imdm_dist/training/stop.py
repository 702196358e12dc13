"""Graceful stop of a run: a signal, Ctrl-C or the time budget asks, all ranks agree on a step, then one checkpoint."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from imdm_dist.config.training import TrainConfig
from imdm_dist.parallel.topology import Topology
from imdm_dist.signals import SIGNALS, another_press, heed_interrupts, noted

CTRL_C = "Ctrl-C"


class StopRequest:
    """Says, on every rank at the same step, that the run should stop.

    While it is entered, SIGTERM, SIGUSR1 and SIGUSR2 only set a flag, on whatever rank they come; one that was noted
    before counts too. Handlers that were there before are called too and are put back on exit. So does the first SIGINT
    once there is something to save; the second one, and the first one before that, raises KeyboardInterrupt, which says
    what is lost.

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
        self._interrupted = False
        self.lost: Callable[[], str] | None = None
        """Says what ends with the process if it ends now; set once steps are made."""

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handler(signal.getsignal(number)))
        self._before[signal.SIGINT] = heed_interrupts(self._interrupt)
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

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not another_press():
            return
        if self.lost is None:
            raise KeyboardInterrupt
        if self._interrupted:
            raise KeyboardInterrupt(f"{self.lost()}; the same command goes on from there")
        self._interrupted, self._cause = True, self._cause or CTRL_C
        if self.topology.first:
            with suppress(RuntimeError):  # this may have come amid a line that is being written
                print("\nsaving after this step, press Ctrl-C again to end at once", file=sys.stderr, flush=True)

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

    def print_stopped(self, folder: Path, done: int, last: int) -> None:
        """Say on the console that the run stopped early."""
        if self.topology.first:
            cause = self._cause or "a signal to another rank"
            print(
                f"{folder} stopped at step {done} of {last} ({cause}): run the same command to go on", file=sys.stderr
            )
