"""The error boundary of every command line: an error that a user can act on is one line, not a traceback."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_READER_GONE, EXIT_REFUSED
from imdm_dist.problems import ProblemsError
from imdm_dist.signals import another_press, heed_interrupts

REFUSAL = "IMDM_REFUSAL"
"""Variable that names a file: a process of a launch makes it when it ends by what the user has to mend."""


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code: 2 after `ValueError` and `OSError`, a line for each problem; 130 after Ctrl-C.

    Where nobody reads the output any more, as in `tool | head -1`, that is no error to be told of: the exit code alone
    says so. Set IMDM_TRACEBACK=1 to see the traceback of an error as well.
    """
    before = heed_interrupts(_interrupt)
    pressed = False
    code: Any
    try:
        code = main()
    except (ValueError, OSError) as error:
        code = EXIT_READER_GONE if isinstance(error, BrokenPipeError) and _reader_gone() else EXIT_REFUSED
        if code == EXIT_REFUSED:
            note_refusal()
            if os.environ.get("IMDM_TRACEBACK"):
                raise
            lines = error.lines if isinstance(error, ProblemsError) else [in_a_line(error)]
            _say("\n".join(f"error: {line}" for line in lines))
    except KeyboardInterrupt as interrupt:
        pressed = True
        _tell(interrupt)
        code = EXIT_INTERRUPTED
    except SystemExit as end:  # of argparse's --help, or of work that was stopped in good order
        code = end.code
    finally:
        if not pressed:
            signal.signal(signal.SIGINT, before)
    unsaid = _end_output()
    if unsaid is not None and not code:
        code = EXIT_READER_GONE if isinstance(unsaid, BrokenPipeError) else EXIT_REFUSED
        if code == EXIT_REFUSED:
            _say(f"error: the output could not be written ({in_a_line(unsaid)})")
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if another_press():
        raise KeyboardInterrupt


def _tell(interrupt: KeyboardInterrupt) -> None:
    """Say what becomes of the work; from now on another Ctrl-C ends the process as it stands."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    # Of the processes of a launch the first one speaks.
    if (os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0") == "0":
        _say("; ".join(["ended by Ctrl-C", *map(str, interrupt.args)]))
    _end_output()
    # A checkpoint that is being written in the background would be waited for.
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(EXIT_INTERRUPTED)


def _end_amid_imports(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        _hook(kind, error, trace)
        return
    _tell(error)
    os._exit(EXIT_INTERRUPTED)


# A tool's own imports come before `guarded`, and on a busy file system they take seconds.
_hook, sys.excepthook = sys.excepthook, _end_amid_imports


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr)


def _reader_gone() -> bool:
    """Whether the broken pipe is one that this process prints to, and not one to a worker."""
    pipes = select.poll()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):  # of a stream that is no file
            pipes.register(stream.fileno(), 0)
    return bool(pipes.poll(0))


def _end_output() -> OSError | None:
    """Write out what is left; the error if it cannot be, and then nothing more is written to that stream."""
    found = None
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the process was started without one
        try:
            stream.flush()
        except OSError as error:
            found = found or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return found


def note_refusal() -> None:
    """Tell the launcher, if it asks, that there is no use in starting again.

    The launch's exit code does not tell: srun kills the other processes, and gives the code of one of these.
    """
    if path := os.environ.get(REFUSAL):
        with suppress(OSError):
            Path(path).touch()


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
