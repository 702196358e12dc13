"""A job of which a process died goes back to the queue, but not for ever.

What is wrong with a machine is often right on the next one, or the next time; a fault of the program is not. So the
restarts without progress are counted, in a file beside the logs: SLURM's own count has time limits and preemptions in
it. A new checkpoint, or a new shard of a coupling, is progress, and the count begins anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import read_record, write_json
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import StageCrashed, back_to_the_queue, still_runs


def restart(error: StageCrashed, folder: Path, logs: Path, restarts: int) -> NoReturn:
    """Put this job back into the queue after a crash, if it may go there once more.

    Args:
        folder: where the stage's checkpoints or shards are.
        logs: folder for the count.
        restarts: how often in a row without progress.

    Raises:
        SystemExit: it has been put back (`EXIT_STOPPED`).
        StageCrashed: it may not, or SLURM does not take it; or it has ended the job, or started it again, by itself.
    """
    if not still_runs():
        raise error
    count = count_crash(logs / f"restarts-{slurm.own_job()}.json", f"{folder.name}: {progress(folder)}")
    if count > restarts:
        raise StageCrashed(
            f"{error}; restarted {restarts} times in a row without a new checkpoint or shard (resources.restarts), it "
            "is not tried again"
        ) from None
    print(f"{error}; restart {count} of {restarts} in a row without progress", file=sys.stderr)
    if not back_to_the_queue():
        raise error
    raise SystemExit(EXIT_STOPPED)


def count_crash(path: Path, there: str) -> int:
    """Note a crash; returns how many there have been in a row, this one included, with the same result `there`."""
    last = read_record(path, crashes=int) or {}
    count = last["crashes"] + 1 if last.get("there") == there else 1
    write_json(path, {"crashes": count, "there": there})
    return count


def progress(folder: Path) -> str:
    """What is there of a run or a coupling: its newest checkpoint and the number of its shards."""
    newest = max((path.name for path in folder.glob("step-*")), default="no checkpoint")
    return f"{newest}, {len(list(folder.glob('shard-*.parquet')))} shards"
