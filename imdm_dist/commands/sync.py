"""Send Weights & Biases runs that were recorded offline (train.wandb=offline)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """example, on a node with a network, after `wandb login`:
  imdm_dist sync runs
It may be run again at any time: what was sent is not sent twice. A run that was resumed has several segments; they
become one run. Exit code 1 says that something could not be sent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent and stop")


def run(arguments: argparse.Namespace) -> int:
    from imdm_dist.training.wandb_sync import sync, unsynced

    segments = unsynced(arguments.folders)
    if not segments:
        print("nothing to send")
    if arguments.dry_run:
        for run, files in segments.items():
            print(f"{run}: {len(files)} to send ({', '.join(file.parent.name for file in files)})")
        return 0
    failed = False
    for report in sync(segments):
        failed |= bool(report.cause)
        print(
            f"{report.run}: {report.sent} sent", f"{report.left} left ({report.cause})" if report.cause else "all done"
        )
        sys.stdout.flush()
    return int(failed)
