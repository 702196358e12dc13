"""Starts a Python program in every process of a job: `python -m imdm_dist.launch tools/train.py runs/teacher ...`."""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded
from imdm_dist.signals import EXIT_INTERRUPTED, EXIT_STOPPED, heed_signals

EXAMPLE = """example, in a batch script:
  python -m imdm_dist.launch tools/train.py runs/teacher --config configs/embedded.yaml
The program's processes meet on a free port. The warning before the time limit or a preemption is passed on to them;
when they have saved and stopped (exit code 75), the job goes back to the queue."""


def main() -> int:
    """Run the program named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imdm_dist.launch",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--local", type=int, default=0, metavar="N", help="N processes of this machine, without SLURM")
    parser.add_argument("--apart", action="store_true", help="the end of one process is no reason to end the others")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="a script, or -m and a module, and its arguments")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("name a program, such as tools/train.py")
    heed_signals()
    from imdm_dist.launch import slurm
    from imdm_dist.launch.driver import Driver, StageInterrupted, StageStopped, back_to_the_queue

    if arguments.local < 0:
        raise ValueError(f"--local is {arguments.local}: give 1 process or more")
    if not arguments.local:
        slurm.need_allocation()
    with Driver(arguments.local) as driver:
        try:
            driver.run(arguments.program, apart=arguments.apart)
        except StageStopped:
            if not arguments.local and not driver.presses:
                back_to_the_queue()
            return EXIT_STOPPED
        except StageInterrupted:
            return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    guarded(main)
