"""What every command line shares: an error a user can act on is one line, not a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

REFUSAL = "IMDM_REFUSAL"
"""Variable that names a file: a process of a launch makes it when it ends by what the user has to mend."""


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code; `ValueError` and `OSError` print one line and exit with 2.

    Set IMDM_TRACEBACK=1 to see the traceback of such an error as well.
    """
    try:
        code = main()
    except (ValueError, OSError) as error:
        note_refusal()
        if os.environ.get("IMDM_TRACEBACK"):
            raise
        print(f"error: {in_a_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)


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
