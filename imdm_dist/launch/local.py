"""torchrun on this machine without its tracebacks: `python -m imdm_dist.launch.local --nproc-per-node=2 PROGRAM ...`.

What went wrong is said by the processes themselves, in a line each. Exits with the code of the first that failed, or as
the signal has it that ended all.
"""

from __future__ import annotations

import logging
import sys


def main() -> int:
    """Run torchrun's own command line."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(["--standalone", *sys.argv[1:]]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
