"""Who is at work on a stage: told by what its processes leave in files, so jobs of slurm/*.sh are seen too.

Whoever starts the processes of a stage notes its job in `orders/`, and training its own in `heartbeat.json`.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.remembered import ORDERS
from imdm_dist.coupling.lease import process_start
from imdm_dist.files import read_record
from imdm_dist.launch import slurm
from imdm_dist.training.heartbeat import Heartbeat, read_heartbeat

STALE_S = 120.0
"""Age of a heartbeat in seconds from which a run counts as silent."""


@dataclass(frozen=True)
class Hand:
    """Who is at work on a stage."""

    job: int
    """In the user's queue; 0 if it is none of these."""
    where: str = ""
    """In words, if there is no such job."""


def heartbeat_of(folder: Path) -> Heartbeat | None:
    """The heartbeat of a run. It is never synced: one that a power cut has emptied tells as much as none."""
    with suppress(ValueError):
        return read_heartbeat(folder)
    return None


def noted_jobs(home: Path) -> dict[str, set[str]]:
    """The jobs that noted themselves at work in the folders of a chain, by the folder's name; old ones too."""
    noted: dict[str, set[str]] = {}
    for path in home.glob(f"{ORDERS}/*.json"):
        noted.setdefault(path.stem, set()).add((read_record(path, job=str) or {}).get("job", ""))
    for path in home.glob(f"*/{run_files.HEARTBEAT}"):
        if (beat := heartbeat_of(path.parent)) is not None:
            noted.setdefault(path.parent.name, set()).add(beat.job)
    return {folder: jobs - {""} for folder, jobs in noted.items() if jobs - {""}}


def noted_log(home: Path, folder: Path) -> tuple[str, str]:
    """The last job that began work in a folder, and its log; empty where none did, or where it has none."""
    path = home / ORDERS / f"{folder.name}.json"
    order = read_record(path, job=str, log=str)
    return (order["job"], order["log"]) if order else ("", "")


def in_hand(folder: Path, jobs: Collection[str], queue: list[slurm.Job]) -> Hand | None:
    """Who is at work in a stage's folder; None if nobody is, as far as files and the user's queue tell.

    Args:
        jobs: those that noted themselves there.
    """
    for job in queue:
        if str(job.id) in jobs and job.state not in slurm.OVER:
            return Hand(job.id)
    beat = heartbeat_of(folder)
    if beat is None or beat.ended or beat.age > STALE_S or _gone(beat, queue):
        return None
    job_of = f"job {beat.job}, " if beat.job else ""
    return Hand(0, f"{job_of}process {beat.pid} on {beat.host}")


def check_idle(folder: Path, jobs: Collection[str]) -> None:
    """Check that nobody is at work on a run, or waits in the queue to be.

    Args:
        jobs: those that were submitted for it.

    Raises:
        ValueError: somebody is.
    """
    beat = heartbeat_of(folder)
    hand = in_hand(folder, {*jobs, *([beat.job] if beat is not None and beat.job else [])}, slurm.queue())
    if hand is not None:
        who = f"job {hand.job}" if hand.job else hand.where
        raise ValueError(f"{folder} is being made by {who}: wait for its end, or stop it first (scancel)")


def _gone(beat: Heartbeat, queue: list[slurm.Job]) -> bool:
    """Whether a process that beat a moment ago is known to be dead."""
    if beat.host == socket.gethostname() and process_start(beat.pid) is None:
        return True
    if not beat.job:
        return False
    states = [job.state for job in queue if str(job.id) == beat.job] or slurm.last_states([int(beat.job)]).values()
    return any(state in slurm.OVER for state in states)
