"""Status table of a chain: which stages are whole, which run and how far they are, which wait and for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.activity import Activity, activities
from imdm_dist.chain.chain import Chain
from imdm_dist.chain.slurm_jobs import SubmittedJob, job_states, live_jobs, read_jobs
from imdm_dist.chain.stage import StageProgress
from imdm_dist.chain.survey import StageState, survey
from imdm_dist.chain.work_order import jobs_of_orders
from imdm_dist.launch import slurm


@dataclass(frozen=True)
class Row:
    """A stage in the table."""

    stage: str
    kind: str
    state: str
    progress: str
    job: str
    time_left: str
    note: str


def status(chain: Chain, root: Path) -> list[Row]:
    """Look at every stage; nothing is changed. Files are believed, not read through.

    Without SLURM's commands the columns of jobs stay empty.
    """
    home = root / chain.name
    states = survey(chain, home, quick=True)
    try:
        queue, slurm_is_here = slurm.queue(), True
    except ValueError:
        queue, slurm_is_here = [], False
    last = read_jobs(home) if slurm_is_here else {}
    live = live_jobs(home, queue)
    at_work, orders = activities(states.values(), home, queue), jobs_of_orders(home)
    for name, state in states.items():
        if not slurm_is_here or name in at_work or state.folder is None or not state.stage.made:
            continue
        number = int(orders.get(state.folder.name, ("", ""))[0] or 0)
        if state.state != "whole" and number > (last[name].id if name in last else 0):
            last[name] = SubmittedJob(number, "")
    scripts = {name: SubmittedJob(activity.job, "") for name, activity in at_work.items() if activity.job}
    jobs = last | scripts | live
    known = job_states(jobs, queue) if jobs else {}
    return [
        _row(states[stage.name], jobs.get(stage.name), known.get(stage.name, []), at_work.get(stage.name), home)
        for stage in chain.stages
    ]


def _row(
    found: StageState, job: SubmittedJob | None, entries: Sequence[slurm.Job], activity: Activity | None, home: Path
) -> Row:
    stage = found.stage
    state: str = found.state
    note = found.why
    progress = (found.folder and stage.progress(found.folder)) or StageProgress("")
    words = {entry.state for entry in entries}
    if found.state != "whole" and (entries or activity):
        if "RUNNING" in words or "COMPLETING" in words:
            state, note = "running", ", ".join(sorted({entry.nodes for entry in entries if entry.nodes}))
            if progress.silent:
                note += f"; {progress.silent}"
        elif words & {"PENDING", "REQUEUED", "SUSPENDED"}:
            reasons = {entry.reason for entry in entries if entry.state == "PENDING"}
            state, note = "queued", ", ".join(sorted(reasons))
        elif activity is not None:
            state, note = "running", activity.process
        elif words - {"COMPLETED"}:
            assert job is not None
            state = "cancelled" if words == {"CANCELLED"} else "failed"
            note = f"job ended as {', '.join(sorted(words - {'COMPLETED'})).lower()}{_log_of(found, job, home)}"
    return Row(
        stage=stage.name,
        kind=stage.kind,
        state=state,
        progress=progress.text,
        job=str(job.id) if job is not None and found.state != "whole" else "",
        time_left=progress.time_left if state == "running" else "",
        note=note,
    )


def _log_of(found: StageState, job: SubmittedJob, home: Path) -> str:
    """Where a job that has ended says why; a job that never began has no log."""
    # An array has a log for each element.
    logs = sorted(home.glob(f"{run_files.LOGS}/{found.stage.name}-{job.id}.log"))
    logs += sorted(home.glob(f"{run_files.LOGS}/{found.stage.name}-{job.id}_*.log"))
    if logs:
        return f": see {logs[0] if len(logs) == 1 else home / run_files.LOGS / f'{found.stage.name}-{job.id}_*.log'}"
    if found.folder is not None:
        noted, log = jobs_of_orders(home).get(found.folder.name, ("", ""))
        if noted == str(job.id) and log:
            return f": see {log}"
    return " before it began"


def status_text(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    head = Row("stage", "kind", "state", "progress", "job", "time left", "why, or where")
    cells = [list(vars(row).values()) for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
