"""Train one stage: a teacher, an SDTT student or a ReDi student."""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_overrides
from imdm_dist.config import to_yaml
from imdm_dist.config.recorded import load_run
from imdm_dist.signals import heed_signals, leave_stopped

EXAMPLES = """example, a small teacher on the embedded text, in a minute:
  imdm_dist train runs/teacher --config configs/embedded.yaml train.steps=200
Run the same command again to go on after an interruption; the folder alone is enough:
  imdm_dist train runs/teacher
On several GPUs or processes:
  torchrun --nproc-per-node 8 -m imdm_dist train runs/teacher --config configs/embedded.yaml engine.zero_stage=1
Exit code 75 says that a signal or train.time_budget stopped the run after a checkpoint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="run folder: checkpoints, metrics.jsonl and config.json go here")
    parser.add_argument("--config", help="YAML file of settings (default: those the folder was begun with)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and stop")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    config = load_run(arguments.folder, arguments.config, arguments.overrides)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return
    heed_signals()
    from imdm_dist.parallel.environment import this_process
    from imdm_dist.training.loop import train

    if not train(config, arguments.folder):
        leave_stopped(this_process().rank)
