"""Exit codes of the processes of this package: what a launcher, a batch script or a shell learns from their end."""

from __future__ import annotations

import signal

EXIT_FAILED = 1
"""An error of which nobody knew before."""
EXIT_REFUSED = 2
"""What the user has to mend, told in one line: no use to start again."""
EXIT_HUNG = 70
"""No step ended any more (EX_SOFTWARE; `training/watchdog.py`)."""
EXIT_STOPPED = 75
"""The process was asked to stop and did so in good order (EX_TEMPFAIL: start it again to go on)."""
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C ended it without a save, as shells have it."""
EXIT_READER_GONE = 128 + signal.SIGPIPE
"""Whoever read its output has gone, as shells have it."""
