"""Makes stages with the processes of this allocation, or of this machine: a launch for each stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.chain.chain import Chain, chain_yaml, load_chain, needed
from imdm_dist.chain.preflight import preflight
from imdm_dist.chain.remembered import freeze, remember, write_order
from imdm_dist.chain.runner import make_stages, prepare_data
from imdm_dist.chain.stage import Stage
from imdm_dist.chain.survey import survey
from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.launch.driver import Driver, StageCrashed, StageInterrupted, StageStopped, back_to_the_queue
from imdm_dist.launch.restarts import restart
from imdm_dist.parallel.environment import env_number
from imdm_dist.versions import versions


def make_here(chain: Chain, stages: Sequence[Stage], root: Path, local: int = 0, only: bool = False) -> dict[str, Path]:
    """Make what is missing of some stages; see `make_stages`.

    Args:
        local: processes on this machine; 0 takes this job's allocation.
        only: make the last one alone; refuse if what it starts from is not whole.

    Raises:
        ValueError, OSError: something does not fit, or a stage failed.
        SystemExit: stopped in good order, and a job has been put back into the queue; or ended by Ctrl-C.
    """
    if not local:
        slurm.need_allocation()
    home = root / chain.name
    found = survey(chain, home, quick=True)
    todo = [stage for stage in stages if found[stage.name].state != "whole"]
    todo = todo[-1:] if only else todo
    preflight(chain, todo, root, local or _tasks(), in_job=True)
    if not only:  # which a job of a submitted chain does, whose settings are frozen
        remember(home, chain.overrides)
    prepare_data(chain, todo)
    print(_place(local), file=sys.stderr)
    frozen = freeze(chain_yaml(chain), home)
    with Driver(local, home / run_files.LOGS) as driver:

        def worker(stage: Stage, folders: Mapping[str, Path]) -> None:
            program = ["-m", "imdm_dist.chain.stage_process", str(write_order(home, frozen, stage.name, folders))]
            try:
                driver.run(program, one=stage.processes == "one", apart=stage.processes == "apart")
            except ValueError as error:
                # What counts is the result: a worker's work is done by others, and a process may be killed at its end.
                folder = folders[stage.name]
                try:
                    stage.claimed_digest(folder)
                except (ValueError, OSError):
                    logs = f" and {folder / run_files.LOGS}" if any(folder.glob(f"{run_files.LOGS}/*.log")) else ""
                    message = f"stage {stage.name}: {error}{logs}"
                    if local or not isinstance(error, StageCrashed) or not stage.config.resources.restarts:
                        raise ValueError(message) from None
                    restart(StageCrashed(message), folder, home / run_files.LOGS, stage.config.resources.restarts)
                print(f"{stage.name}: done, though not every process came to its end ({error})", file=sys.stderr)

        try:
            return make_stages(chain, stages, root, worker, only)
        except StageStopped:
            print("stopped in good order", file=sys.stderr)
            if not local and not driver.presses:
                back_to_the_queue()
            raise SystemExit(EXIT_STOPPED) from None
        except StageInterrupted:
            raise SystemExit(EXIT_INTERRUPTED) from None


def make_stage(chain: str, stage: str, root: str) -> None:
    """What the job of a stage does: make it with the job's processes; refuse if what it starts from is not whole.

    Args:
        chain: file of the chain, with all settings resolved.
    """
    loaded = load_chain(chain)
    for name, folder in make_here(loaded, needed(loaded, stage), Path(root), only=True).items():
        print(f"{name}: {folder}")


def pack_data(chain: str) -> None:
    """What the job before those of the stages does: pack the text."""
    loaded = load_chain(chain)
    prepare_data(loaded, loaded.stages)


def _tasks() -> int:
    """Processes of this job's allocation."""
    return env_number("SLURM_NTASKS", 0) or env_number("SLURM_JOB_NUM_NODES")


def _place(local: int) -> str:
    """Where this runs, in a line: once for all processes."""
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    if local:
        return f"this machine, {local} processes; {made_with}"
    have = os.environ
    restarts = env_number("SLURM_RESTART_COUNT", 0)
    again = f", start {restarts + 1}" if restarts else ""
    return f"job {slurm.own_job()}{again}: {_tasks()} processes on {have['SLURM_JOB_NODELIST']}; {made_with}"
