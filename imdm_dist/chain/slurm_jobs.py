"""The SLURM jobs of a chain: which stage each of them makes, told by its name in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from imdm_dist.chain.chain import Chain
from imdm_dist.chain.stage import Stage
from imdm_dist.config import shaping_settings
from imdm_dist.files import has_fields, hash_json, read_record, write_json
from imdm_dist.launch import slurm

JOBS = "jobs.json"
DATA = "prepare_data"
"""The job that prepares data; it makes no stage."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was submitted for a stage."""

    id: int
    key: str
    """Hash of what it was to make."""


_JOB_FIELDS = {"id": int, "key": str}


def stage_key(chain: Chain, stage: Stage, home: Path) -> str:
    """Hash of what a stage is to be made of as far as settings say, where a stage's identity waits for its inputs."""
    inputs = {name: stage_key(chain, chain.stage(name), home) for name in chain.inputs(stage)}
    settings = [shaping_settings(stage.config, *stage.shaping), asdict(stage.config.data)]
    keys, given = {key: getattr(stage, key) for key in stage.own_fields()}, str(stage.given_folder() or "")
    return hash_json([str(home.resolve()), stage.kind, settings, keys, given, inputs])[:8]


def job_name(home: Path, what: str, key: str) -> str:
    """Name of a job in the queue: it says which stage of what, should the record of its submission be lost.

    Args:
        home: folder of the chain; other folders' jobs are another chain's.
    """
    return f"{home.name}.{what}.{_folder_hash(home)}.{key}"


def _folder_hash(home: Path) -> str:
    return hash_json(str(home.resolve()))[:6]


def read_jobs(home: Path) -> dict[str, SubmittedJob]:
    """The last job of each stage."""
    jobs = read_record(home / JOBS) or {}
    whole = {stage: job for stage, job in jobs.items() if isinstance(job, dict) and has_fields(job, _JOB_FIELDS)}
    return {stage: SubmittedJob(**{name: job[name] for name in _JOB_FIELDS}) for stage, job in whole.items()}


def note_job(home: Path, stage: str, job: SubmittedJob) -> None:
    """Keep a stage's last job."""
    jobs = read_jobs(home) | {stage: job}
    write_json(home / JOBS, {name: asdict(one) for name, one in jobs.items()})


def live_jobs(home: Path, queue: list[slurm.Job]) -> dict[str, SubmittedJob]:
    """Jobs of the chain in this folder that wait or run, by stage."""
    live = {}
    for job in queue:
        name, _, key = job.name.rpartition(".")
        stage = name.removeprefix(f"{home.name}.").removesuffix(f".{_folder_hash(home)}")
        if name == f"{home.name}.{stage}.{_folder_hash(home)}" and job.state not in slurm.OVER:
            live[stage] = SubmittedJob(job.id, key)
    return live


def job_states(jobs: Mapping[str, SubmittedJob], queue: list[slurm.Job]) -> dict[str, list[slurm.Job]]:
    """What the queue, or else accounting, knows of each stage's job: one entry, or one for each element of an array."""
    known = {stage: [entry for entry in queue if entry.id == job.id] for stage, job in jobs.items()}
    forgotten = [jobs[stage].id for stage, entries in known.items() if not entries]
    last = slurm.last_states(forgotten)
    for stage, entries in known.items():
        if not entries and (number := jobs[stage].id) in last:
            known[stage] = [slurm.Job(number, "", "", last[number], "", "", "")]
    return known
