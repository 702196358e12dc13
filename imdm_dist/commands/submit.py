"""Submit a training run through Submitit: to SLURM, or as processes of this machine with --local."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imdm_dist.commands.arguments import add_overrides
from imdm_dist.config.recorded import load_run
from imdm_dist.signals import interrupted

EXAMPLES = """examples:
  imdm_dist submit runs/teacher --config configs/embedded.yaml --nodes 2 --gpus-per-node 8 --time 24:00:00
  imdm_dist submit runs/teacher --config configs/embedded.yaml --local resources.tasks_per_node=2
  imdm_dist submit runs/teacher --config configs/embedded.yaml --nodes 2 --gpus-per-node 8 --dry-run
The job saves and goes back to the queue before its time limit and when it is preempted. The options are short for
settings of the section resources, which the file may hold too."""
OPTIONS = ("nodes", "gpus-per-node", "tasks-per-node", "cpus-per-task", "memory", "time", "partition", "account")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="run folder; Submitit's own files go into it too")
    parser.add_argument("--config", help="YAML file of settings")
    for option in OPTIONS:
        parser.add_argument(f"--{option}", help=f"resources.{option.replace('-', '_')}")
    parser.add_argument("--local", action="store_true", help="processes of this machine instead of SLURM")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script and submit nothing")
    parser.add_argument("--wait", action="store_true", help="wait for the end, and fail if the job does")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    given = {option.replace("-", "_"): getattr(arguments, option.replace("-", "_")) for option in OPTIONS}
    options = [f"resources.{name}={value}" for name, value in given.items() if value is not None]
    config = load_run(arguments.folder, arguments.config, [*options, *arguments.overrides])
    from imdm_dist.chain.activity import check_idle
    from imdm_dist.chain.preflight import check_folder
    from imdm_dist.chain.stages.train import check_run
    from imdm_dist.launch.submission import script, submit_run, submitted_before
    from imdm_dist.planning.plan_text import limit_text

    needed = check_run(config)
    if arguments.dry_run:
        print(script(config.resources, arguments.folder))
        return
    check_folder(arguments.folder, needed, "take another run folder")
    if not arguments.local:
        check_idle(arguments.folder, submitted_before(arguments.folder))
    job = submit_run(config, arguments.folder, arguments.local)
    limit = f"; {limit_text(config.resources.time)}" if config.resources.time else ""
    print(f"job {job.job_id}{limit}; logs in {job.paths.folder}", file=sys.stderr)
    if arguments.wait:
        left = f"see {job.paths.folder}" if arguments.local else "the job goes on without this command"
        with interrupted(lambda: left):
            job.task(0).result()
        print(arguments.folder)
