"""Runs a chain by launching processes for each stage: in the allocation of a SLURM job, or on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from imdm_dist.chain.chain import Chain, freeze_chain, load_chain, needed
from imdm_dist.chain.runner import begin, make_stages, prepare_data
from imdm_dist.chain.stage import Stage
from imdm_dist.chain.work_order import write_order
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import StageCrashed
from imdm_dist.launch.job import driven
from imdm_dist.launch.requeue import restart
from imdm_dist.parallel.environment import env_number
from imdm_dist.versions import versions


def run_in_processes(
    chain: Chain, root: Path, processes: int = 0, stages: Sequence[Stage] | None = None, only: bool = False
) -> dict[str, Path]:
    """As `run_chain`, with several processes for each stage.

    Args:
        processes: how many on this machine; 0 takes those of this job's allocation.

    Raises:
        ValueError, OSError: something does not fit, or a stage failed.
        SystemExit: stopped in good order, and a job has been put back into the queue; or ended by Ctrl-C.
    """
    if not processes:
        slurm.require_allocation()
    home = root / chain.name
    stages = chain.stages if stages is None else stages
    begin(chain, stages, root, only, processes or _tasks())
    print(_where(processes), file=sys.stderr)
    frozen = freeze_chain(chain, home)
    with driven(processes, home / "logs") as driver:

        def execute(stage: Stage, folders: Mapping[str, Path]) -> None:
            program = ["-m", "imdm_dist.chain.work_order", str(write_order(home, frozen, stage.name, folders))]
            try:
                driver.run(program, one=stage.processes == "one", apart=stage.processes == "apart")
            except ValueError as error:
                # What counts is the result: a worker's work is done by others, and a process may be killed at its end.
                folder = folders[stage.name]
                try:
                    stage.claimed_digest(folder)
                except (ValueError, OSError):
                    logs = f" and {folder / 'logs'}" if any(folder.glob("logs/*.log")) else ""
                    message = f"stage {stage.name}: {error}{logs}"
                    if processes or not isinstance(error, StageCrashed) or not stage.config.resources.restarts:
                        raise ValueError(message) from None
                    restart(StageCrashed(message), folder, home / "logs", stage.config.resources.restarts)
                print(f"{stage.name}: done, though not every process came to its end ({error})", file=sys.stderr)

        return make_stages(chain, stages, root, execute, only)


def stage_job(chain: str, stage: str, root: str) -> None:
    """What the job of a stage does: make it with the job's processes; refuse if what it starts from is not whole.

    Args:
        chain: file of the chain, with all settings resolved.
    """
    loaded = load_chain(chain)
    for name, folder in run_in_processes(loaded, Path(root), stages=needed(loaded, stage), only=True).items():
        print(f"{name}: {folder}")


def data_job(chain: str) -> None:
    """What the job before those of the stages does: pack the text."""
    loaded = load_chain(chain)
    prepare_data(loaded, loaded.stages)


def _tasks() -> int:
    """Processes of this job's allocation."""
    return env_number("SLURM_NTASKS", 0) or env_number("SLURM_JOB_NUM_NODES")


def _where(processes: int) -> str:
    """Where this runs, in a line: once for all processes."""
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    if processes:
        return f"this machine, {processes} processes; {made_with}"
    have = os.environ
    restarts = env_number("SLURM_RESTART_COUNT", 0)
    again = f", start {restarts + 1}" if restarts else ""
    return f"job {slurm.current_job()}{again}: {_tasks()} processes on {have['SLURM_JOB_NODELIST']}; {made_with}"
