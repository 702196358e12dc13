"""Send Weights & Biases runs that were recorded offline (train.wandb=offline)."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """example, on a node with a network, after `wandb login`:
  imdm_dist sync runs
It finds the parts that runs left and has `wandb sync` send them. It may be run again at any time: what was sent is not
sent twice. A run that was resumed has several parts; they become one run. Exit code 1 says that something could not be
sent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent and stop")


def run(arguments: argparse.Namespace) -> int:
    from imdm_dist.training.wandb_sync import sync, unsynced

    parts = unsynced(arguments.folders)
    if not parts:
        print("nothing to send")
    return int(not sync(parts, arguments.dry_run))
