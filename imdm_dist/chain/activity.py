"""Activity: whether a process or a SLURM job is at work on a stage or a run.

It is told by files: whoever launches the processes of a stage notes its job in a work order, and training its own in
`heartbeat.json`. So jobs of `slurm/*.sh`, which the package has not submitted, are seen too.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.slurm_jobs import live_jobs
from imdm_dist.chain.survey import StageState
from imdm_dist.chain.work_order import jobs_of_orders
from imdm_dist.coupling.lease import process_start
from imdm_dist.launch import slurm
from imdm_dist.training.heartbeat import Heartbeat, read_heartbeat

STALE_S = 120.0
"""Age of a heartbeat in seconds from which a run counts as silent."""


@dataclass(frozen=True)
class Activity:
    """Who is at work on a stage."""

    job: int
    """In the user's queue; 0 if it is none of these."""
    process: str = ""
    """In words, if there is no such job."""


def heartbeat_of(folder: Path) -> Heartbeat | None:
    """The heartbeat of a run. It is never synced: one that a power cut has emptied tells as much as none."""
    with suppress(ValueError):
        return read_heartbeat(folder)
    return None


def noted_jobs(home: Path) -> dict[str, set[str]]:
    """The jobs that noted themselves at work in the folders of a chain, by the folder's name; old ones too."""
    noted = {folder: {job} for folder, (job, _) in jobs_of_orders(home).items()}
    for path in home.glob(f"*/{run_files.HEARTBEAT}"):
        if (beat := heartbeat_of(path.parent)) is not None:
            noted.setdefault(path.parent.name, set()).add(beat.job)
    return {folder: jobs - {""} for folder, jobs in noted.items() if jobs - {""}}


def chain_jobs(home: Path, queue: list[slurm.Job]) -> set[int]:
    """Ids of a chain's jobs that wait or run: those that were submitted for it, and those at work in its folder."""
    noted = set().union(*noted_jobs(home).values())
    at_work = {job.id for job in queue if str(job.id) in noted and job.state not in slurm.OVER}
    return at_work | {job.id for job in live_jobs(home, queue).values()}


def activity_in(folder: Path, jobs: Collection[str], queue: list[slurm.Job]) -> Activity | None:
    """Who is at work in a stage's folder; None if nobody is, as far as files and the user's queue tell.

    Args:
        jobs: those that noted themselves there.
    """
    for job in queue:
        if str(job.id) in jobs and job.state not in slurm.OVER:
            return Activity(job.id)
    beat = heartbeat_of(folder)
    if beat is None or beat.ended or beat.age > STALE_S or _gone(beat, queue):
        return None
    job_of = f"job {beat.job}, " if beat.job else ""
    return Activity(0, f"{job_of}process {beat.pid} on {beat.host}")


def activities(states: Iterable[StageState], home: Path, queue: list[slurm.Job]) -> dict[str, Activity]:
    """Who is at work on stages of the chain in `home` that are not whole, by the stage's name."""
    noted, found = noted_jobs(home), {}
    for state in states:
        if state.folder is not None and state.state != "whole" and state.stage.made:
            found[state.stage.name] = activity_in(state.folder, noted.get(state.folder.name, ()), queue)
    return {name: activity for name, activity in found.items() if activity is not None}


def check_idle(folder: Path, jobs: Collection[str]) -> None:
    """Check that nobody is at work on a run, or waits in the queue to be.

    Args:
        jobs: those that were submitted for it.

    Raises:
        ValueError: somebody is.
    """
    beat = heartbeat_of(folder)
    activity = activity_in(folder, {*jobs, *([beat.job] if beat is not None and beat.job else [])}, slurm.queue())
    if activity is not None:
        who = f"job {activity.job}" if activity.job else activity.process
        raise ValueError(f"{folder} is being made by {who}: wait for its end, or stop it first (scancel)")


def _gone(beat: Heartbeat, queue: list[slurm.Job]) -> bool:
    """Whether a process that beat a moment ago is known to be dead."""
    if beat.host == socket.gethostname() and process_start(beat.pid) is None:
        return True
    if not beat.job:
        return False
    states = [job.state for job in queue if str(job.id) == beat.job] or slurm.last_states([int(beat.job)]).values()
    return any(state in slurm.OVER for state in states)
