"""Run what is missing of a chain: here, with the processes of a SLURM job, or as jobs that are submitted to SLURM.

Giving the command again is always safe: what is whole is kept, what was cut off goes on.
"""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_chain
from imdm_dist.signals import heed_signals

EXAMPLES = """examples, the whole method on the embedded text:
  imdm_dist run configs/embedded_chain.yaml                      in this process
  imdm_dist run configs/embedded_chain.yaml --processes 2        in two for each stage, as training needs them
On a login node of a cluster, and in a batch script (slurm/*.sh):
  imdm_dist run configs/pipeline/owt_860m.yaml --slurm --dry-run    say what would be submitted, and why
  imdm_dist run configs/pipeline/owt_860m.yaml --slurm              submit it, a job a stage
  imdm_dist run configs/pipeline/owt_860m.yaml --in-job --stage redi
Settings win over the file's, in all stages or in one:
  imdm_dist run configs/embedded_chain.yaml train.seed=1 teacher/train.steps=500"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_chain(parser)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--processes", type=int, metavar="N", help="start N processes for each stage (default: all in this one)"
    )
    place.add_argument("--in-job", action="store_true", help="take the processes of the SLURM job that this is in")
    place.add_argument("--slurm", action="store_true", help="submit a job for each stage, after those it starts from")
    parser.add_argument("--dry-run", action="store_true", help="with --slurm: say what would be submitted, and stop")
    parser.add_argument("--stage", help="this stage and what it starts from (default: all)")
    parser.add_argument("--only", action="store_true", help="with --stage: refuse to make what it starts from")
    parser.add_argument("--data", action="store_true", help="pack the text and stop")
    parser.add_argument(
        "--workers", type=int, help="rollout processes where all is in this one (default: one a core or GPU)"
    )


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if not arguments.slurm:
        heed_signals()
    from imdm_dist.chain.chain import load_chain, needed
    from imdm_dist.chain.runner import prepare_data, run_chain

    chain = load_chain(arguments.chain, arguments.overrides)
    stages = needed(chain, arguments.stage) if arguments.stage else chain.stages
    if arguments.data:
        prepare_data(chain, stages)
        return
    if arguments.slurm:
        from imdm_dist.chain.cluster import submit_chain

        submit_chain(chain, arguments.root, arguments.dry_run, stages)
        return
    if arguments.in_job or arguments.processes:
        from imdm_dist.chain.processes import run_in_processes

        folders = run_in_processes(chain, arguments.root, arguments.processes or 0, stages, arguments.only)
    else:
        folders = run_chain(chain, arguments.root, arguments.workers, stages, arguments.only)
    for name, folder in folders.items():
        print(f"{name}: {folder}")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.dry_run and not arguments.slurm:
        raise ValueError("--dry-run says what would be submitted: it goes with --slurm; or take imdm_dist status")
    if arguments.only and not arguments.stage:
        raise ValueError("--only goes with --stage: name the stage")
    if arguments.processes is not None and arguments.processes < 1:
        raise ValueError(f"--processes is {arguments.processes}: give 1 or more")
    if arguments.slurm and (arguments.only or arguments.data):
        raise ValueError("--only and --data are for work here or in a job: leave them out, or leave out --slurm")
    if arguments.workers is not None and (arguments.slurm or arguments.in_job or arguments.processes):
        raise ValueError("--workers is for a chain in one process: of several, each is a worker; leave it out")
