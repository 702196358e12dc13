"""Launches a Python program in every process of a job: `python -m imdm_dist.launch -m imdm_dist train RUN ...`."""

from __future__ import annotations

import argparse
from pathlib import Path

from imdm_dist.error_boundary import guarded
from imdm_dist.signals import heed_signals

EXAMPLE = """example, in a batch script:
  python -m imdm_dist.launch -m imdm_dist train runs/teacher --config configs/embedded.yaml
The program's processes meet on a free port. The warning before the time limit or a preemption is passed on to them;
when they have saved and stopped (exit code 75), the job goes back to the queue. So it does when one of them dies of
anything but what the user has to mend (exit code 2): --restarts times without a new checkpoint in the --folder."""


def main() -> None:
    """Run the program named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imdm_dist.launch",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--local", type=int, default=0, metavar="N", help="N processes of this machine, without SLURM")
    parser.add_argument("--apart", action="store_true", help="the end of one process is no reason to end the others")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="after a crash, in a row (default: 0)")
    parser.add_argument("--folder", type=Path, help="of the run, in which progress is looked for and restarts counted")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="a module in place of a script")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="a script, unless there is a -m, and its arguments")
    arguments = parser.parse_args()
    program = [*(["-m", arguments.module] if arguments.module else []), *arguments.program]
    if not program:
        parser.error("name a program, such as -m imdm_dist train")
    heed_signals()
    for name in ("local", "restarts"):
        if (value := getattr(arguments, name)) < 0:
            raise ValueError(f"--{name} is {value}: give 0 or more")
    if arguments.restarts and not (arguments.folder or arguments.apart):
        raise ValueError("--restarts goes with --folder, or with --apart: name the run's folder")
    from imdm_dist.launch.job import run_job

    run_job(program, arguments.local, arguments.apart, arguments.restarts, arguments.folder)


if __name__ == "__main__":
    guarded(main)
