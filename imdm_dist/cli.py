"""What every command line shares: an error a user can act on is one line, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code; `ValueError` and `OSError` print one line and exit with 2.

    Set IMDM_TRACEBACK=1 to see the traceback of such an error as well.
    """
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("IMDM_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {message}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)
