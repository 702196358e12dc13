"""Submits a training run through Submitit: to SLURM, or as processes of this machine."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdm_dist.config import Config
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.time_limit import minutes_of
from imdm_dist.launch import slurm
from imdm_dist.launch.site import PACKAGE, site_home
from imdm_dist.launch.submitit_job import TIMEOUTS, TrainJob
from imdm_dist.signals import EXIT_STOPPED

LOGS = "submitit"
"""Folder in the run's folder for Submitit's scripts, pickles and logs."""
DEFAULT_TIME = "24:00:00"
"""Time limit of a job for which none is set: Submitit always sets one."""


def submit(config: Config, folder: Path, local: bool) -> Any:
    """Submit a run; returns Submitit's job.

    Raises:
        ValueError: Submitit is not installed, or cannot do what is asked; or SLURM refuses.
    """
    submitit = _submitit()
    resources = config.resources
    logs = folder / LOGS
    if local:
        if resources.nodes > 1:
            raise ValueError(f"resources.nodes={resources.nodes}, but --local is this machine alone: set it to 1")
        executor = submitit.LocalExecutor(folder=logs, max_num_timeout=TIMEOUTS)
        gpus = resources.gpus_per_node
        executor.update_parameters(
            tasks_per_node=resources.tasks, gpus_per_node=gpus, timeout_min=_minutes(resources), setup=_setup()
        )
    else:
        _check_name(folder)
        slurm.check_machines(replace(resources, time=resources.time or DEFAULT_TIME))
        try:
            executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=TIMEOUTS)
        except RuntimeError as error:
            raise ValueError(f"{error} Run this on a login node, or with --local or --dry-run") from None
        executor.update_parameters(**slurm_parameters(resources, folder))
    try:
        return executor.submit(TrainJob(config, folder.resolve()))
    except submitit.core.utils.FailedJobError as error:
        words = " ".join(str(error).replace("sbatch: error:", "").split())
        raise ValueError(f"SLURM refused the job: {words}; change resources.*, sinfo says what there is") from None


def submitted_before(folder: Path) -> set[str]:
    """Ids of the jobs that were submitted for a run."""
    return {path.name.partition("_")[0] for path in (folder / LOGS).glob("*_submission.sh")}


def script(config: Config, folder: Path) -> str:
    """The batch script that `submit` would hand to SLURM; nothing is written.

    Raises:
        ValueError: Submitit is not installed, or the folder's name does not go into a script.
    """
    _submitit()
    _check_name(folder)
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder / LOGS))}"
    return str(_make_sbatch_string(command, folder / LOGS, **slurm_parameters(config.resources, folder)))


def _check_name(folder: Path) -> None:
    path = str(folder.absolute())
    if any(sign in path for sign in ("%", "\\", "\n")):
        raise ValueError(
            f"{path!r} has a %, a \\ or a line break, which SLURM and Submitit do not take in the name of a log: take "
            "another folder"
        )


def slurm_parameters(resources: ResourcesConfig, folder: Path) -> dict[str, Any]:
    """Resources in Submitit's words, for a run in `folder`."""
    given: dict[str, Any] = {
        "partition": resources.partition,
        "account": resources.account,
        "gpus_per_node": resources.gpus_per_node,
        "cpus_per_task": resources.cpus_per_task,
    }
    further: dict[str, Any] = {"requeue": True}
    if resources.memory:
        further["mem"] = resources.memory
    for option in resources.sbatch:
        key, equals, value = option.lstrip("-").partition("=")
        further[key] = value if equals else True
    return {
        "job_name": folder.absolute().name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks,
        "time": _minutes(resources),
        "signal_delay_s": resources.warning_s,
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": [*_setup(), *_cores(resources), *_restarts(resources, folder)],
        "additional_parameters": further,
        **{key: value for key, value in given.items() if value},
    }


def _minutes(resources: ResourcesConfig) -> int:
    """The time limit as sbatch takes it in minutes: 0 is none."""
    minutes = minutes_of(resources.time or DEFAULT_TIME)
    return 0 if math.isinf(minutes) else int(minutes)


def _setup() -> list[str]:
    """Shell lines before the processes start: where the package is, and the site's own file."""
    site = site_home() / "slurm" / "site.sh"
    lines = [f'export PYTHONPATH="{PACKAGE}${{PYTHONPATH:+:$PYTHONPATH}}"']
    return [*lines, f'. "{site}"'] if site.exists() else lines


def _cores(resources: ResourcesConfig) -> list[str]:
    """srun does not take the cores of a process over from sbatch by itself."""
    cores = resources.cpus_per_task
    given = [f"export SRUN_CPUS_PER_TASK={cores}"] if cores else []
    return [*given, f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cores or 1}}}"]


def _restarts(resources: ResourcesConfig, folder: Path) -> list[str]:
    """What the batch script does when its processes end with an error, unless they were stopped in good order."""
    if not resources.restarts:
        return []
    words = [sys.executable, "-m", "imdm_dist.launch.restarts", str(folder.absolute()), str(resources.restarts)]
    return [f"after() {{ {shlex.join(words)}; }}", f"trap 'case $? in 0|{EXIT_STOPPED}) ;; *) after ;; esac' EXIT"]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError("the package submitit is missing: pip install 'imdm_dist[cluster]'") from None
    return submitit
