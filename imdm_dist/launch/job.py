"""Runs a program in all processes of a job, from start to exit code: signals, crashes and the requeue."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import Driver, StageCrashed, StageInterrupted, StageStopped
from imdm_dist.launch.requeue import requeue_this_job, restart


@contextmanager
def driven(local: int, logs: Path | None) -> Iterator[Driver]:
    """A `Driver`; a job whose processes were stopped in good order goes back to the queue.

    Args:
        local: processes of this machine, without SLURM; 0 takes this job's allocation.
        logs: see `Driver`.

    Raises:
        ValueError: this is no job.
        SystemExit: the processes were stopped in good order (`EXIT_STOPPED`), or by Ctrl-C (`EXIT_INTERRUPTED`).
    """
    if not local:
        slurm.require_allocation()
    with Driver(local, logs) as driver:
        try:
            yield driver
        except StageStopped:
            print("stopped in good order", file=sys.stderr)
            if not local and not driver.presses:
                requeue_this_job()
            raise SystemExit(EXIT_STOPPED) from None
        except StageInterrupted:
            raise SystemExit(EXIT_INTERRUPTED) from None


def run_job(
    program: Sequence[str], local: int = 0, apart: bool = False, restarts: int = 0, folder: Path | None = None
) -> None:
    """Run a program in every process of this job.

    Args:
        program: what follows `python`: a script, or -m and a module, and arguments.
        local: as `driven`.
        apart: the end of one process is no reason to end the others.
        restarts: after a crash, in a row without a new checkpoint or shard.
        folder: of the run, in which new results are looked for and restarts are counted.

    Raises:
        ValueError: this is no job, the program refused what it was given, or it crashed once too often.
        SystemExit: as `driven`, or the job has been put back into the queue after a crash.
    """
    logs = folder and folder / "logs"
    with driven(local, logs) as driver:
        # Processes that do not wait for each other start again in place: what they share may be whole by then.
        for left in range(restarts if apart else 0, -1, -1):
            try:
                driver.run(program, apart=apart)
                break
            except StageCrashed as error:
                if left:
                    print(f"{error}; started again", file=sys.stderr)
                elif local or apart or not restarts:
                    raise
                else:
                    assert folder is not None and logs is not None
                    restart(error, folder, logs, restarts)


def run_training(folder: str, config: str, restarts: int, local: int) -> None:
    """What the job of a training run does; see `run_job`.

    Args:
        config: YAML file of its settings, resolved.
    """
    program = ["-m", "imdm_dist", "train", folder, "--config", config]
    run_job(program, local, restarts=0 if local else restarts, folder=Path(folder))
