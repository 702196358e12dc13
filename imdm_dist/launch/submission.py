"""Submits jobs to SLURM: whatever the package submits goes through Submitit, which writes the batch script and calls
sbatch.

What runs in the batch script is the same as in scripts typed by hand (`slurm/*.sh`): a `Driver` that starts the
processes by srun, has them save at a signal and puts the job back into the queue. So Submitit starts one process
(`use_srun=False`), and its own requeue is not used: it answers the signal on one rank alone, within the handler and at
once, where a sharded checkpoint cannot be saved.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from imdm_dist.config import Config, to_yaml
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.time_limit import minutes_of
from imdm_dist.error_boundary import guarded
from imdm_dist.files import freeze_text
from imdm_dist.launch import slurm
from imdm_dist.launch.job import run_training
from imdm_dist.signals import heed_signals

LOGS = "submitit"
"""Folder in a run's or a chain's folder for Submitit's scripts and pickles."""
UNLIMITED_MINUTES = 60 * 24 * 365
"""Submitit's processes of this machine have a time limit in any case."""
PACKAGE = Path(__file__).resolve().parents[2]


class BatchProgram:
    """What Submitit runs in the batch script.

    Args:
        work: callable without arguments, of plain values, for it is pickled: what was pickled must still load when the
            code has been changed before a requeue.
    """

    def __init__(self, work: Callable[[], int | None]) -> None:
        self.work = work

    def __call__(self) -> None:
        """Work; ends the process with its exit code unless that is 0, as a command line would."""
        heed_signals()  # in place of Submitit's handlers
        try:
            guarded(self.work)
        except SystemExit as end:
            if end.code:
                raise


def submit(
    work: Callable[[], int | None],
    resources: ResourcesConfig,
    folder: Path,
    name: str,
    log: str = "",
    after: str = "",
) -> Any:
    """Submit a job, or an array of jobs, to SLURM; returns Submitit's job, of an array the first.

    Args:
        work: see `BatchProgram`.
        folder: of the run or the chain, which all machines see.
        name: of the job in the queue.
        log: the log's path without its ending, which is the job's number; by default it is among Submitit's files.
        after: what it waits for, as sbatch's --dependency reads it.

    Raises:
        ValueError: there is no SLURM here, it refuses the job, or the folder's name does not go into a script.
    """
    import submitit

    check_name(folder)
    try:
        executor = submitit.SlurmExecutor(folder=folder / LOGS, python=f"exec {_python()}")
    except RuntimeError:
        raise ValueError(
            "srun is not here: run this where SLURM's commands are, or with --local on this machine alone"
        ) from None
    executor.update_parameters(**parameters(resources, name, log, after))
    try:
        with redirect_stderr(io.StringIO()):  # where it repeats what sbatch says
            return executor.submit_array([BatchProgram(work)] * resources.array)[0]
    except submitit.core.utils.FailedJobError as error:
        said = " ".join(str(error).replace("sbatch: error:", "").split())
        raise ValueError(f"SLURM refused the job: {said}{_advice(said, resources)}") from None


def submit_run(config: Config, folder: Path, local: bool) -> Any:
    """Submit a training run; returns Submitit's job.

    Args:
        local: as processes of this machine, without SLURM.

    Raises:
        ValueError: as `submit`, or one machine cannot do what is asked.
    """
    import submitit

    resources, folder = config.resources, folder.resolve()
    if not local:
        check_name(folder)
        slurm.check_machines(resources)
    elif resources.nodes > 1:
        raise ValueError(f"resources.nodes={resources.nodes}, but --local is this machine alone: set it to 1")
    settings = freeze_text(folder / LOGS, to_yaml(config))
    work = partial(run_training, str(folder), str(settings), resources.restarts, resources.tasks if local else 0)
    if not local:
        return submit(work, replace(resources, array=1), folder, folder.name)
    executor = submitit.LocalExecutor(folder=folder / LOGS)
    minutes = min(minutes_of(resources.time or "0"), UNLIMITED_MINUTES)
    executor.update_parameters(timeout_min=int(minutes), setup=_setup())
    return executor.submit(BatchProgram(work))


def script(resources: ResourcesConfig, folder: Path) -> str:
    """The batch script that would be handed to SLURM for a run; nothing is written.

    Raises:
        ValueError: the folder's name does not go into a script.
    """
    check_name(folder)
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"exec {_python()} -u -m submitit.core._submit {shlex.quote(str(folder / LOGS))}"
    return str(_make_sbatch_string(command, folder / LOGS, **parameters(resources, folder.absolute().name)))


def submitted_before(folder: Path) -> set[str]:
    """Ids of the jobs that were submitted for a run."""
    return {path.name.partition("_")[0] for path in (folder / LOGS).glob("*_submission.sh")}


def check_name(folder: Path) -> None:
    """Check that SLURM and Submitit read a folder's name as it is.

    Raises:
        ValueError: they do not.
    """
    path = str(folder.absolute())
    if "\\" in path or "\n" in path or re.search("%[jtAa]", path):
        raise ValueError(
            f"{path!r} has a \\, a line break, or a %j, %t, %A or %a, which SLURM or Submitit do not take in the name "
            "of a log: take another folder"
        )


def parameters(resources: ResourcesConfig, name: str, log: str = "", after: str = "") -> dict[str, Any]:
    """Resources in Submitit's words; see `submit`."""
    given: dict[str, Any] = {
        "partition": resources.partition,
        "account": resources.account,
        "gpus_per_node": resources.gpus_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "dependency": after,
    }
    further: dict[str, Any] = {"requeue": True, "signal": f"B:USR1@{resources.warning_s}"}
    if resources.memory:
        further["mem"] = resources.memory
    if after:
        further["kill-on-invalid-dep"] = "yes"
    if log:
        further["output"] = f"{log.replace('%', '%%')}-{'%A_%a' if resources.array > 1 else '%j'}.log"
    for option in resources.sbatch:
        key, equals, value = option.lstrip("-").partition("=")
        further[key] = value if equals else True
    return {
        "job_name": name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks,
        "time": resources.time or None,  # as sbatch reads it; Submitit knows minutes alone, and hands on anything
        "use_srun": False,
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": _setup(),
        "additional_parameters": further,
        **{key: value for key, value in given.items() if value},
    }


def _setup() -> list[str]:
    """Shell lines before the work starts: where the package is, and the site's own file."""
    site = Path(os.environ.get("IMDM_HOME", PACKAGE)) / "slurm" / "site.sh"
    path = shlex.quote(str(PACKAGE))
    lines = [f'export PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"']
    return [*lines, f". {shlex.quote(str(site))}"] if site.exists() else lines


def _python() -> str:
    return shlex.quote(os.environ.get("IMDM_PYTHON", sys.executable))


def _advice(error: str, resources: ResourcesConfig) -> str:
    if any(word in error for word in ("configuration", "specification", "invalid number")):
        asked = {name: getattr(resources, name) for name in ("nodes", "gpus_per_node", "cpus_per_task", "memory")}
        words = ", ".join(f"resources.{name}={value}" for name, value in asked.items() if value)
        return f"; set {words} to what the machines of the partition have (sinfo)"
    return "; change resources.*, sinfo says what there is"
