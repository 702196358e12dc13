"""Signal handling: signals that ask a process to stop are noted from its first line on.

A cluster may send one while a process still imports its libraries. What the system does by itself would kill that
process and, with it, the other ranks of its launch, in the middle of what they do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from imdm_dist.exit_codes import EXIT_STOPPED

AGAIN_S = 2.0
"""What comes so soon after a Ctrl-C is the same one: a terminal tells all processes, and a launcher tells its own."""
LINGER = 5.0
"""Seconds that rank 0 leaves the others to end in."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_cause: str | None = None
_leaving = False
_pressed = float("-inf")


def heed_signals() -> None:
    """From now on a signal to stop is noted, and nothing more; call it in the main thread, before long imports."""
    for number in SIGNALS:
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    global _cause
    _cause = _cause or signal.Signals(number).name
    if _leaving:
        raise SystemExit(EXIT_STOPPED)


def noted() -> str | None:
    """Name of the first signal since `heed_signals`, if there was one."""
    return _cause


def leave_stopped(rank: int) -> NoReturn:
    """End a process of a launch that has stopped in good order, all of them together.

    srun kills the others when the first one ends with another code than 0, and then tells theirs instead. So under srun
    rank 0 speaks for all, and last; the others go at once, for the libraries take seconds to end by themselves.

    Raises:
        SystemExit: with `EXIT_STOPPED`.
    """
    if "SLURM_STEP_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        if rank > 0:
            os._exit(0)
        time.sleep(LINGER)
    raise SystemExit(EXIT_STOPPED)


def another_press() -> bool:
    """Note that SIGINT came; whether it is another Ctrl-C and not the last one once more."""
    global _pressed
    now = time.monotonic()
    if now - _pressed < AGAIN_S:
        return False
    _pressed = now
    return True


def heed_interrupts(handler: Callable[[int, FrameType | None], None]) -> Any:
    """Have `handler` called at SIGINT, unless the process was started to ignore it (in the background of a script).

    Returns:
        What was in its place, for `signal.signal`.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
    return before


@contextmanager
def interrupted(left: Callable[[], str]) -> Iterator[None]:
    """Inside, a KeyboardInterrupt gets the words of `left`, what becomes of the work, unless it has some already."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(*interrupt.args or [left()]) from None


@contextmanager
def leaving_at_signals() -> Iterator[None]:
    """Inside, a signal that is noted, or was before, ends the process in good order: for work without checkpoints.

    Raises:
        SystemExit: with `EXIT_STOPPED`.
    """
    global _leaving
    if _cause:
        raise SystemExit(EXIT_STOPPED)
    before, _leaving = _leaving, True
    try:
        yield
    finally:
        _leaving = before
