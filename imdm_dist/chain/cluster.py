"""Submits what is missing of a chain to SLURM: a job for each stage, after those of the stages it starts from."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.chain import Chain, chain_yaml
from imdm_dist.chain.here import make_stage, pack_data
from imdm_dist.chain.in_hand import in_hand, noted_jobs
from imdm_dist.chain.jobs import DATA, Submitted, job_name, live_jobs, note_job, stage_key
from imdm_dist.chain.preflight import preflight
from imdm_dist.chain.remembered import freeze, remember
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
) -> dict[str, Submitted]:
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
    found = survey(chain, home)
    stages = chain.stages if stages is None else stages
    todo = [stage for stage in stages if found[stage.name].state != "whole"]
    live = _others(chain, todo, found, home, queue) | live_jobs(home, queue)
    preflight(chain, todo, root)
    _check_given(todo, found)
    _check_machines(todo)
    _refuse_others(chain, todo, live, home)
    if dry:
        for stage in stages:
            job = f", job {live[stage.name].id} is in the queue" if stage.name in live else ""
            asks = "" if job or found[stage.name].state == "whole" else f"; {job_text(stage)}"
            print(f"{stage.name}: {found[stage.name].state}{job or _reason(found[stage.name])}{asks}", file=sys.stderr)
        return {}
    remember(home, chain.overrides)
    frozen = freeze(chain_yaml(chain), home)
    new: dict[str, Submitted] = {}
    kept: dict[str, Submitted] = {}
    try:
        if any(found[stage.name].why == UNPREPARED for stage in todo):
            if DATA in live:
                kept[DATA] = live[DATA]
            else:
                new[DATA] = _submit_data(chain, frozen, root)
        for stage in stages:
            name, inputs = stage.name, chain.inputs(stage)
            if found[name].state == "whole":
                print(f"{name}: there already ({found[name].folder})", file=sys.stderr)
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
            new[name] = _submit(chain, found[name], frozen, root, before)
    except ValueError:
        if new:
            slurm.cancel(job.id for job in new.values())
        raise
    return kept | new


def job_text(stage: Stage) -> str:
    """What the job of a stage asks for, in words; what is not said is the site's to choose."""
    resources, one = stage.config.resources, stage.processes == "one"
    nodes = 1 if one else resources.nodes
    gpus = min(1, resources.gpus_per_node) if one else resources.gpus_per_node
    tasks = 1 if one else resources.tasks
    jobs = resources.array if stage.processes == "apart" else 1
    words = [
        f"{nodes} node{'s' * (nodes > 1)}",
        f"{gpus} GPU{'s' * (gpus != 1)} and {tasks} process{'es' * (tasks > 1)} on each",
        f"time {resources.time or 'limit of the partition'}",
        f"partition {resources.partition}" if resources.partition else "",
        f"an array of {jobs} such jobs" if jobs > 1 else "",
    ]
    return ", ".join(filter(None, words))


def _reason(found: StageState) -> str:
    return f", {found.why}" if found.why else ""


def _settled_queue(home: Path) -> list[slurm.Job]:
    """The queue; of a job of the chain that is ending it is waited for how, for it may be queued again."""
    until = time.monotonic() + ENDING_S
    noted = set().union(*noted_jobs(home).values())
    while True:
        queue = slurm.queue()
        ending = [job for job in queue if job.state == "COMPLETING"]
        ours = live_jobs(home, ending) or [job for job in ending if str(job.id) in noted]
        if not ours or time.monotonic() > until:
            return queue
        time.sleep(0.5)


def _others(
    chain: Chain, todo: list[Stage], found: dict[str, StageState], home: Path, queue: list[slurm.Job]
) -> dict[str, Submitted]:
    """Jobs of slurm/*.sh that are at work on stages.

    Raises:
        ValueError: a process is at work on one that is in none of the user's jobs.
    """
    noted, others = noted_jobs(home), {}
    for stage in todo:
        folder = found[stage.name].folder
        if folder is None or (hand := in_hand(folder, noted.get(folder.name, ()), queue)) is None:
            continue
        if not hand.job:
            raise ValueError(
                f"stage {stage.name} is being made by {hand.where}, as {folder}/{run_files.HEARTBEAT} says: "
                "wait for its end, or stop it first"
            )
        others[stage.name] = Submitted(hand.job, stage_key(chain, stage, home))
    return others


def _check_given(todo: list[Stage], found: dict[str, StageState]) -> None:
    """Check that what is to be given is there: no job makes it."""
    for stage in todo:
        if not stage.made:
            raise ValueError(f"stage {stage.name} {found[stage.name].why}")


def _refuse_others(chain: Chain, todo: list[Stage], live: dict[str, Submitted], home: Path) -> None:
    for stage in todo:
        if stage.name in live and live[stage.name].key != stage_key(chain, stage, home):
            raise ValueError(
                f"job {live[stage.name].id} makes stage {stage.name} with other settings: "
                "cancel it first (imdm_dist cancel), or wait for its end"
            )


def _check_machines(todo: list[Stage]) -> None:
    for stage in todo:
        try:
            slurm.check_machines(stage.config.resources)
        except ValueError as error:
            raise ValueError(f"stage {stage.name}: {error}") from None


def _submit(chain: Chain, found: StageState, frozen: Path, root: Path, before: dict[str, int]) -> Submitted:
    stage, home = found.stage, root / chain.name
    key, resources = stage_key(chain, stage, home), stage.config.resources
    try:
        number = submit(
            partial(make_stage, str(frozen.resolve()), stage.name, str(root.resolve())),
            resources,
            home,
            job_name(home, stage.name, key),
            log=str(_logs(home) / stage.name),
            array=resources.array if stage.processes == "apart" else 1,
            one=stage.processes == "one",
            after=_dependency(chain, before),
        )
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from None
    job = Submitted(number, key)
    note_job(home, stage.name, job)
    waits = f" after {', '.join(map(str, before.values()))}" if before else ""
    limit = f", {limit_text(resources.time)}" if resources.time else ""
    print(f"{stage.name}: job {job.id}{limit}{waits} ({found.state}, {found.why})", file=sys.stderr)
    return job


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


def _submit_data(chain: Chain, frozen: Path, root: Path) -> Submitted:
    """A job of one process that packs the text, so that no GPU waits for it."""
    home = root / chain.name
    first = chain.stages[0].config.resources
    kept = ("time", "partition", "account", "sbatch", "warning_s")
    resources = ResourcesConfig(**{name: getattr(first, name) for name in kept})
    work, name = partial(pack_data, str(frozen.resolve())), job_name(home, DATA, "prepare")
    job = Submitted(submit(work, resources, home, name, log=str(_logs(home) / DATA), one=True), "prepare")
    note_job(home, DATA, job)
    print(f"{DATA}: job {job.id} packs the text", file=sys.stderr)
    return job


def _logs(home: Path) -> Path:
    folder = home.resolve() / run_files.LOGS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cancel_chain(home: Path) -> list[int]:
    """Cancel the jobs of the chain in this folder that wait or run; returns their ids.

    Jobs of slurm/*.sh are among them once they are at work in it.
    """
    queue = slurm.queue()
    noted = set().union(*noted_jobs(home).values())
    live = {job.id for job in live_jobs(home, queue).values()}
    live |= {job.id for job in queue if str(job.id) in noted and job.state not in slurm.OVER}
    if live:
        slurm.cancel(live)
    return sorted(live)
