"""A program in all processes of a job, from start to exit code: signals, crashes and the way back to the queue."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import Driver, StageCrashed, StageInterrupted, StageStopped, back_to_the_queue
from imdm_dist.launch.restarts import restart


def run_job(
    program: Sequence[str], local: int = 0, apart: bool = False, restarts: int = 0, folder: Path | None = None
) -> int:
    """Run a program in every process of this job; returns the exit code.

    Args:
        program: what follows `python`: a script, or -m and a module, and arguments.
        local: processes of this machine, without SLURM; 0 takes this job's allocation.
        apart: the end of one process is no reason to end the others.
        restarts: after a crash, in a row without a new checkpoint or shard.
        folder: of the run, in which progress is looked for and restarts are counted.

    Raises:
        ValueError: this is no job, the program refused what it was given, or it crashed once too often.
    """
    if not local:
        slurm.need_allocation()
    logs = folder and folder / run_files.LOGS
    with Driver(local, logs) as driver:
        try:
            # Processes that do not wait for each other start again in place: what they share may be whole by then.
            for left in range(restarts if apart else 0, -1, -1):
                try:
                    driver.run(program, apart=apart)
                    break
                except StageCrashed as error:
                    if not left:
                        raise
                    print(f"{error}; started again", file=sys.stderr)
        except StageStopped:
            if not local and not driver.presses:
                back_to_the_queue()
            return EXIT_STOPPED
        except StageInterrupted:
            return EXIT_INTERRUPTED
        except StageCrashed as error:
            if local or apart or not restarts:
                raise
            assert folder is not None and logs is not None
            restart(error, folder, logs, restarts)
    return 0


def run_training(folder: str, config: str, restarts: int, local: int) -> int:
    """What the job of a training run does; see `run_job`.

    Args:
        config: YAML file of its settings, resolved.
    """
    program = ["-m", "imdm_dist", "train", folder, "--config", config]
    return run_job(program, local, restarts=0 if local else restarts, folder=Path(folder))
