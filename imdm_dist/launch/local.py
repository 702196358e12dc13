"""torchrun on this machine without its tracebacks: `python -m imdm_dist.launch.local --nproc-per-node=2 PROGRAM ...`.

What went wrong is said by the processes themselves, in a line each. Exits with the code of the first that failed.
Signals to stop are passed on to the processes, which then have all the time that a save takes; torchrun by itself kills
them after half a minute.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

import psutil

from imdm_dist.signals import SIGNALS, another_press, heed_interrupts

PATIENCE = 10.0
"""Seconds after a second Ctrl-C until processes that are still there, waiting for each other, are killed."""
_presses = 0


def main() -> int:
    """Run torchrun's own command line."""
    for number in SIGNALS:
        signal.signal(number, _pass_on)
    heed_interrupts(_interrupt)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        theirs = "--signals-to-handle=SIGHUP,SIGQUIT"  # the others are ours
        run.run(run.parse_args(["--standalone", theirs, *sys.argv[1:]]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    processes = psutil.Process().children()
    if not processes:
        raise SystemExit(128 + number)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _presses
    if not another_press():
        return
    _presses += 1
    if _presses == 2:
        killing = threading.Timer(PATIENCE, _pass_on, (signal.SIGKILL, None))
        killing.daemon = True
        killing.start()
    _pass_on(number, frame)


if __name__ == "__main__":
    sys.exit(main())
