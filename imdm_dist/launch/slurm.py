"""SLURM's commands (squeue, sacct, scontrol, scancel, sinfo), and their answers as values."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.time_limit import minutes_of, only_requeues

WAITS_S = 60
"""Seconds that a command of SLURM may take."""
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
"""Final states: a job does not leave them by itself."""


@dataclass(frozen=True)
class Job:
    """A job in the queue, or one element of an array."""

    id: int
    """Of the whole array, if it is part of one."""
    element: str
    """Number in the array, or numbers of elements that wait; empty without an array."""
    name: str
    state: str
    """As SLURM says it: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits."""
    left: str
    """Time left until its limit."""
    nodes: str


def in_allocation() -> bool:
    """Whether this process may start steps by srun: in a batch script or salloc, but no step itself."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


def require_allocation() -> None:
    """Check that steps can be started here.

    Raises:
        ValueError: not so.
    """
    if "SLURM_STEP_ID" in os.environ:
        raise ValueError("this is a step of a job, which cannot start others: take salloc or sbatch, not srun")
    if not in_allocation():
        raise ValueError("this is no SLURM job: start it in a batch script (see slurm/), or with --local, here")
    if warning := os.environ.get("IMDM_WARNING_S"):  # slurm/environment.sh finds it in the batch script
        _check_own_limit(int(warning))


def _check_own_limit(warning_s: int) -> None:
    """Check that this job is warned of its end after its beginning; where SLURM does not say, nothing is checked."""
    try:
        limit = call(["squeue", "--noheader", f"--jobs={current_job()}", "--format=%l"]).strip()
        minutes = minutes_of(limit)
    except ValueError:
        return
    if only_requeues(minutes, warning_s):
        raise ValueError(
            f"this job's time limit is {minutes:g} minutes, and {warning_s} seconds before it the job goes back to the "
            "queue: it would do nothing else; give sbatch a longer --time, or a shorter warning, such as "
            "IMDM_WARNING_S=30 sbatch --signal=B:USR1@30"
        )


def current_job() -> str:
    """Id of the job that this process is part of, also as an element of an array."""
    have = os.environ
    if "SLURM_ARRAY_JOB_ID" in have:
        # The plain id of an array's last element is that of the whole array.
        return f"{have['SLURM_ARRAY_JOB_ID']}_{have['SLURM_ARRAY_TASK_ID']}"
    return have["SLURM_JOB_ID"]


def call(command: Sequence[str]) -> str:
    """What a command of SLURM prints.

    Raises:
        ValueError: there is no such command here, or it fails; the message is the command's own.
    """
    done = _answer(command)
    if done.returncode == -signal.SIGPIPE:  # a busy slurmctld closed the connection on it
        done = _answer(command)
    if done.returncode != 0:
        said = " ".join(done.stderr.replace(f"{command[0]}: error: ", "").split())
        if "configuration source" in said:  # the commands are installed, and no cluster is
            said = "it finds no cluster: run this on a login node, or with --local on this machine alone"
        raise ValueError(f"{command[0]} refused: {said or f'exit code {done.returncode}, try again'}")
    return done.stdout


def _answer(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=WAITS_S)
    except FileNotFoundError:
        raise ValueError(
            f"{command[0]} is not here: run this where SLURM's commands are, or with --local on this machine alone"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} did not answer for {WAITS_S} s: try again when SLURM does") from None


def queue() -> list[Job]:
    """The user's jobs that SLURM still remembers, finished ones included for as long as it does."""
    form = "%F|%K|%T|%r|%L|%N|%j"  # the name last, which may hold anything: these are all of the user's jobs
    lines = call(["squeue", "--me", "--noheader", "--states=all", f"--format={form}"]).splitlines()
    jobs = []
    for line in lines:
        if line.count("|") < 6:
            continue  # the rest of a name with a line break in it
        number, element, state, reason, left, nodes, name = line.split("|", 6)
        jobs.append(Job(int(number), "" if element == "N/A" else element, name, state, reason, left, nodes))
    return jobs


def last_states(ids: Iterable[int]) -> dict[int, str]:
    """The last state of jobs that the queue has forgotten, as far as accounting tells; empty without accounting."""
    wanted = ",".join(map(str, ids))
    if not wanted:
        return {}
    try:
        said = call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={wanted}", "--format=JobID,State"])
    except ValueError:
        return {}
    states: dict[int, str] = {}
    for line in said.splitlines():
        number, state = line.split("|")
        job = int(number.partition("_")[0])
        word = state.split()[0]
        # Of an array, what went wrong counts.
        if states.get(job, "COMPLETED") == "COMPLETED":
            states[job] = word
    return states


def state_of(job: str) -> str:
    """State of a job or of one element of an array.

    Raises:
        ValueError: SLURM does not say.
    """
    said = call(["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"])
    return said.split()[0] if said.split() else ""


def requeue(job: str) -> None:
    """Put a running job back into the queue.

    Raises:
        ValueError: SLURM refuses.
    """
    call(["scontrol", "requeue", job])


def cancel(ids: Iterable[int]) -> None:
    """Cancel jobs."""
    call(["scancel", *map(str, ids)])


def check_machines(resources: ResourcesConfig) -> None:
    """Check that a partition has the machines and the time: SLURM takes a job that asks for more, and lets it wait for
    ever.

    Raises:
        ValueError: it has not, or there is no such partition; or its own time limit is too short for the warning.
    """
    lines = call(["sinfo", "--noheader", "--summarize", "--format=%P|%D|%L|%l"]).splitlines()
    found = {name: rest for name, *rest in (line.split("|") for line in lines)}
    sizes = {name.rstrip("*"): int(count) for name, (count, _, _) in found.items()}
    default = ",".join(name.rstrip("*") for name in found if name.endswith("*"))
    # sbatch takes a list, and any one of these.
    chosen = resources.partition or os.environ.get("SBATCH_PARTITION") or default
    wanted = [name for name in chosen.split(",") if name]
    for name in wanted:
        if name not in sizes:
            raise ValueError(f"there is no partition {name}: set resources.partition to one of {', '.join(sizes)}")
    if wanted and resources.nodes > (most := max(sizes[name] for name in wanted)):
        raise ValueError(
            f"partition {','.join(wanted)} has {most} machines, resources.nodes={resources.nodes}: "
            f"set it to {most} or fewer"
        )
    if wanted:
        limits = {name.rstrip("*"): (usual, longest) for name, (_, usual, longest) in found.items()}
        _check_time(resources, ",".join(wanted), [limits[name] for name in wanted])


def _check_time(resources: ResourcesConfig, partition: str, limits: list[tuple[str, str]]) -> None:
    """Check a job's time limit against those of partitions, any of which it may run in.

    Args:
        limits: of each, that of a job which names none, and the longest.
    """
    longest = max((long for _, long in limits), key=minutes_of)
    setting = "resources.time" if resources.time else "SBATCH_TIMELIMIT"
    given = resources.time or os.environ.get(setting)
    # A QOS may allow more than the partition.
    if given and minutes_of(given) > minutes_of(longest) and not any(o.startswith("--qos") for o in resources.sbatch):
        raise ValueError(
            f"partition {partition} allows {longest} (hours:minutes:seconds), {setting} is {given}: set it to that or "
            "less"
        )
    used = given or max((long if usual == "n/a" else usual for usual, long in limits), key=minutes_of)
    if only_requeues(minutes_of(used), resources.warning_s):
        raise ValueError(
            f"without resources.time a job of partition {partition} has {used} (hours:minutes:seconds), and "
            f"resources.warning_s={resources.warning_s} seconds before its end it goes back to the queue: it would do "
            "nothing else; set resources.time"
        )
