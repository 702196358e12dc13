"""Work orders: files that tell the processes of a stage what to do.

Whoever launches the processes writes the order; each of them, `python -m imdm_dist.chain.work_order ORDER`, does its
part. An order also names the SLURM job, so that `imdm_dist status` sees jobs that users submitted themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from imdm_dist.error_boundary import guarded
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import read_json, read_record, write_json
from imdm_dist.signals import heed_signals, leave_stopped

ORDERS = "orders"


def write_order(home: Path, chain: Path, stage: str, folders: Mapping[str, Path]) -> Path:
    """Write the order of a stage; returns the file.

    Args:
        home: folder of the chain.
        chain: its file, with all settings resolved.
        folders: of the stage and of all that it starts from, by name.
    """
    have = os.environ
    job = have.get("SLURM_ARRAY_JOB_ID") or have.get("SLURM_JOB_ID", "")  # of an array the whole
    try:
        log = os.readlink("/proc/self/fd/2") if job else ""
    except OSError:
        log = ""
    path = home / ORDERS / f"{folders[stage].name}.json"
    paths = {name: str(folder) for name, folder in folders.items()}
    log = log if os.path.isfile(log) else ""
    write_json(path, {"chain": str(chain), "stage": stage, "folders": paths, "job": job, "log": log})
    return path


def jobs_of_orders(home: Path) -> dict[str, tuple[str, str]]:
    """Job and log of the last order for each folder of a chain, by the folder's name; empty outside of SLURM."""
    orders = {path.stem: read_record(path, job=str, log=str) for path in home.glob(f"{ORDERS}/*.json")}
    return {folder: (order["job"], order["log"]) for folder, order in orders.items() if order}


def main() -> None:
    """Do this process's part of the order named on the command line."""
    heed_signals()
    from imdm_dist.chain.chain import load_chain
    from imdm_dist.chain.runner import execute
    from imdm_dist.parallel.environment import this_process

    order = read_json(sys.argv[1])
    chain = load_chain(order["chain"])
    stage = chain.stage(order["stage"])
    try:
        execute(chain, stage, {name: Path(path) for name, path in order["folders"].items()})
    except SystemExit as end:
        # Those that work apart end each by itself, and nobody is killed for it.
        if end.code == EXIT_STOPPED and stage.processes == "together":
            leave_stopped(this_process().rank)
        raise


if __name__ == "__main__":
    guarded(main)
