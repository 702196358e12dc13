"""What every command line shares: an error a user can act on is one line, not a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from imdm_dist.signals import EXIT_INTERRUPTED, another_press, heed_interrupts


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code; `ValueError` and `OSError` print one line and exit with 2, Ctrl-C with 130.

    Set IMDM_TRACEBACK=1 to see the traceback of such an error as well.
    """
    before = heed_interrupts(_interrupt)
    pressed = False
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("IMDM_TRACEBACK"):
            raise
        print(f"error: {in_a_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as interrupt:
        pressed = True
        _tell(interrupt)
        code = EXIT_INTERRUPTED
    finally:
        if not pressed:
            signal.signal(signal.SIGINT, before)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if another_press():
        raise KeyboardInterrupt


def _tell(interrupt: KeyboardInterrupt) -> None:
    """Say what becomes of the work; from now on another Ctrl-C ends the process as it stands."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    # Of the processes of a launch the first one speaks.
    if (os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0") == "0":
        print("; ".join(["ended by Ctrl-C", *map(str, interrupt.args)]), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # A checkpoint that is being written in the background would be waited for.
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(EXIT_INTERRUPTED)


def _end_amid_imports(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        return _hook(kind, error, trace)
    _tell(error)
    os._exit(EXIT_INTERRUPTED)


# A tool's own imports come before `guarded`, and on a busy file system they take seconds.
_hook, sys.excepthook = sys.excepthook, _end_amid_imports


def in_a_line(error: ValueError | OSError) -> str:
    """An error as one line, with a remedy where the system's own words have none."""
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}: change its rights (ls -ld shows them), or name another place"
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{what}: make room and run the same command again, what is finished is kept"
        return f"{what}: check the path, or name another" if error.filename else what
    return " ".join(str(error).split()) or type(error).__name__
