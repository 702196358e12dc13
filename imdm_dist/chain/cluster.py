"""Submits what is missing of a chain to SLURM: a job for each stage, with dependencies on those of its inputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.activity import activities, chain_jobs
from imdm_dist.chain.chain import Chain, freeze_chain, save_overrides
from imdm_dist.chain.preflight import preflight
from imdm_dist.chain.processes import data_job, stage_job
from imdm_dist.chain.slurm_jobs import DATA, SubmittedJob, job_name, live_jobs, note_job, stage_key
from imdm_dist.chain.stage import Stage
from imdm_dist.chain.survey import UNPREPARED, StageState, survey
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.launch import slurm
from imdm_dist.launch.submission import check_name, submit
from imdm_dist.planning.plan_text import limit_text

ENDING_S = 60.0
"""Seconds that the end of a job is waited for."""


def submit_chain(
    chain: Chain, root: Path, dry: bool = False, stages: Sequence[Stage] | None = None
) -> dict[str, SubmittedJob]:
    """Submit what is missing; what is whole, waits or runs already is left alone, so that calling again is safe.

    Args:
        dry: check and say all the same, and submit nothing.
        stages: some of its stages, each with all that it starts from; all if not given.

    Returns:
        The jobs that are now in the queue, by stage.

    Raises:
        ValueError: something is missing or does not fit, SLURM refuses a job, or a job for other settings is there;
            nothing has been submitted.
    """
    home = root / chain.name
    check_name(home.resolve())
    queue = _settled_queue(home)
    states = survey(chain, home)
    stages = chain.stages if stages is None else stages
    todo = [stage for stage in stages if states[stage.name].state != "whole"]
    live = _jobs_at_work(chain, [states[stage.name] for stage in todo], home, queue) | live_jobs(home, queue)
    preflight(chain, todo, root)
    for stage in todo:
        _check(chain, states[stage.name], live, home)
    if dry:
        for stage in stages:
            print(_dry_line(states[stage.name], live), file=sys.stderr)
        return {}
    save_overrides(home, chain.overrides)
    frozen = freeze_chain(chain, home)
    new: dict[str, SubmittedJob] = {}
    kept: dict[str, SubmittedJob] = {}
    try:
        if any(states[stage.name].why == UNPREPARED for stage in todo):
            if DATA in live:
                kept[DATA] = live[DATA]
            else:
                new[DATA] = _submit_data(chain, frozen, root)
        for stage in stages:
            name, inputs = stage.name, chain.inputs(stage)
            if states[name].state == "whole":
                print(f"{name}: there already ({states[name].folder})", file=sys.stderr)
                continue
            if name in live and not new.keys() & set(inputs):
                kept[name] = live[name]
                print(f"{name}: job {live[name].id} is in the queue already", file=sys.stderr)
                continue
            if name in live:
                # It waits for a job that ended without a result.
                slurm.cancel([live[name].id])
            jobs = kept | new
            before = {one: jobs[one].id for one in (DATA, *inputs) if one in jobs}
            new[name] = _submit(chain, states[name], frozen, root, before)
    except ValueError:
        if new:
            slurm.cancel(job.id for job in new.values())
        raise
    return kept | new


def _dry_line(state: StageState, live: dict[str, SubmittedJob]) -> str:
    """What would become of a stage."""
    name = state.stage.name
    if name in live:
        return f"{name}: {state.state}, job {live[name].id} is in the queue"
    why = f", {state.why}" if state.why else ""
    return f"{name}: {state.state}{why}" + (f"; {job_text(state.stage)}" if state.state != "whole" else "")


def job_text(stage: Stage) -> str:
    """What the job of a stage asks for, in words; what is not said is the site's to choose."""
    asked = stage.resources
    nodes, gpus, tasks = asked.nodes, asked.gpus_per_node, asked.tasks
    words = [
        f"{nodes} node{'s' * (nodes > 1)}",
        f"{gpus} GPU{'s' * (gpus != 1)} and {tasks} process{'es' * (tasks > 1)} on each",
        f"time {asked.time or 'limit of the partition'}",
        f"partition {asked.partition}" if asked.partition else "",
        f"an array of {asked.array} such jobs" if asked.array > 1 else "",
    ]
    return ", ".join(filter(None, words))


def _settled_queue(home: Path) -> list[slurm.Job]:
    """The queue; of a job of the chain that is ending it is waited for how, for it may be queued again."""
    until = time.monotonic() + ENDING_S
    while True:
        queue = slurm.queue()
        ending = [job for job in queue if job.state == "COMPLETING"]
        if not chain_jobs(home, ending) or time.monotonic() > until:
            return queue
        time.sleep(0.5)


def _jobs_at_work(
    chain: Chain, states: list[StageState], home: Path, queue: list[slurm.Job]
) -> dict[str, SubmittedJob]:
    """Jobs of `slurm/*.sh` that are at work on stages.

    Raises:
        ValueError: a process is at work on one that is in none of the user's jobs.
    """
    jobs, folders = {}, {state.stage.name: state.folder for state in states}
    for name, activity in activities(states, home, queue).items():
        if not activity.job:
            raise ValueError(
                f"stage {name} is being made by {activity.process}, as {folders[name]}/{run_files.HEARTBEAT} says: "
                "wait for its end, or stop it first"
            )
        jobs[name] = SubmittedJob(activity.job, stage_key(chain, chain.stage(name), home))
    return jobs


def _check(chain: Chain, state: StageState, live: dict[str, SubmittedJob], home: Path) -> None:
    """Check that a job can make a stage, and that none makes it with other settings."""
    stage = state.stage
    if not stage.made:
        raise ValueError(f"stage {stage.name} {state.why}")
    try:
        slurm.check_machines(stage.config.resources)
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from None
    if stage.name in live and live[stage.name].key != stage_key(chain, stage, home):
        raise ValueError(
            f"job {live[stage.name].id} makes stage {stage.name} with other settings: "
            "cancel it first (imdm_dist cancel), or wait for its end"
        )


def _submit(chain: Chain, state: StageState, frozen: Path, root: Path, before: dict[str, int]) -> SubmittedJob:
    stage, home = state.stage, root / chain.name
    key = stage_key(chain, stage, home)
    work = partial(stage_job, str(frozen.resolve()), stage.name, str(root.resolve()))
    try:
        job = _noted(home, stage.name, key, work, stage.resources, _dependency(chain, before))
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from None
    waits = f" after {', '.join(map(str, before.values()))}" if before else ""
    limit = f", {limit_text(stage.resources.time)}" if stage.resources.time else ""
    print(f"{stage.name}: job {job.id}{limit}{waits} ({state.state}, {state.why})", file=sys.stderr)
    return job


def _submit_data(chain: Chain, frozen: Path, root: Path) -> SubmittedJob:
    """A job of one process that packs the text, so that no GPU waits for it."""
    first = chain.stages[0].config.resources
    kept = ("time", "partition", "account", "sbatch", "warning_s")
    resources = ResourcesConfig(**{name: getattr(first, name) for name in kept})
    job = _noted(root / chain.name, DATA, "prepare", partial(data_job, str(frozen.resolve())), resources)
    print(f"{DATA}: job {job.id} packs the text", file=sys.stderr)
    return job


def _noted(
    home: Path, what: str, key: str, work: Callable[[], None], resources: ResourcesConfig, after: str = ""
) -> SubmittedJob:
    """Submit a job of a chain, and keep its id in the chain's folder."""
    logs = home.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    job = submit(work, resources, home, job_name(home, what, key), log=str(logs / what), after=after)
    submitted = SubmittedJob(int(job.job_id.partition("_")[0]), key)  # of an array the whole
    note_job(home, what, submitted)
    return submitted


def _dependency(chain: Chain, before: dict[str, int]) -> str:
    """What a stage's job waits for: that jobs end well; where processes work apart, that they have ended.

    A coupling may be whole though a job of its array failed. The job that starts from it looks, and says what is
    missing.
    """
    apart = {stage.name for stage in chain.stages if stage.processes == "apart"}
    ways = {
        "afterok": [str(job) for name, job in before.items() if name not in apart],
        "afterany": [str(job) for name, job in before.items() if name in apart],
    }
    return ",".join(f"{way}:{':'.join(jobs)}" for way, jobs in ways.items() if jobs)


def cancel_chain(home: Path) -> list[int]:
    """Cancel the jobs of the chain in this folder that wait or run; returns their ids.

    Jobs of `slurm/*.sh` are among them once they are at work in it.
    """
    live = chain_jobs(home, slurm.queue())
    if live:
        slurm.cancel(live)
    return sorted(live)
