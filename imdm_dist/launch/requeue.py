"""Requeue: puts this job back into SLURM's queue, when it was stopped in good order or a process of it died.

What is wrong with a machine is often right on the next one, or the next time; a fault of the program is not. So the
restarts without a new result are counted, in a file beside the logs: SLURM's own count has time limits and preemptions
in it. With a new checkpoint, or a new shard of a coupling, the count begins anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import read_record, write_json
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import StageCrashed


def requeue_this_job() -> bool:
    """Have SLURM start this job again, unless it does that, or ended it, by itself; what prevents it is printed.

    Returns:
        whether the job is back in the queue by this call.
    """
    job = slurm.current_job()
    if not _still_runs(job):
        return False
    try:
        slurm.requeue(job)
    except ValueError as error:
        return _not_requeued(job, error)
    return True


def _still_runs(job: str) -> bool:
    """Whether SLURM lets this job run: not if it ends it, or starts it again, by itself, which is then printed."""
    try:
        state = slurm.state_of(job)
    except ValueError as error:
        return _not_requeued(job, error)
    if state != "RUNNING":
        print(f"job {job} is {state}: nothing more to do here", file=sys.stderr)
    return state == "RUNNING"


def _not_requeued(job: str, error: ValueError) -> bool:
    print(f"job {job} cannot go back to the queue ({error}): submit it again to go on", file=sys.stderr)
    return False


def restart(error: StageCrashed, folder: Path, logs: Path, restarts: int) -> NoReturn:
    """Put this job back into the queue after a crash, if it may go there once more.

    Args:
        folder: where the stage's checkpoints or shards are.
        logs: folder for the count.
        restarts: how often in a row without a new result.

    Raises:
        SystemExit: it has been put back (`EXIT_STOPPED`).
        StageCrashed: it may not, or SLURM does not take it; or it has ended the job, or started it again, by itself.
    """
    job = slurm.current_job()
    if not _still_runs(job):
        raise error
    count = count_crash(logs / f"restarts-{job}.json", f"{folder.name}: {newest_result(folder)}")
    if count > restarts:
        raise StageCrashed(
            f"{error}; restarted {restarts} times in a row without a new checkpoint or shard (resources.restarts), it "
            "is not tried again"
        ) from None
    print(f"{error}; restart {count} of {restarts} in a row without progress", file=sys.stderr)
    if not requeue_this_job():
        raise error
    raise SystemExit(EXIT_STOPPED)


def count_crash(path: Path, there: str) -> int:
    """Note a crash; returns how many there have been in a row, this one included, with the same result `there`."""
    last = read_record(path, crashes=int) or {}
    count = last["crashes"] + 1 if last.get("there") == there else 1
    write_json(path, {"crashes": count, "there": there})
    return count


def newest_result(folder: Path) -> str:
    """What is there of a run or a coupling: its newest checkpoint and the number of its shards."""
    newest = max((path.name for path in folder.glob("step-*")), default="no checkpoint")
    return f"{newest}, {len(list(folder.glob('shard-*.parquet')))} shards"
