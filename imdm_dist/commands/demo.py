"""The whole method in minutes on a laptop: the paper's two-token experiment, and a short text chain."""

from __future__ import annotations

import argparse
from pathlib import Path

from imdm_dist.commands.arguments import CONFIGS

EXAMPLES = """example:
  imdm_dist demo --seed 0
Results: runs/demo/report.md (for reading) and runs/demo/report.json (for programs)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="seed of every run (default: 0)")
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="folder of the runs (default: runs/demo)")


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.paper.demo import run_demo

    report = run_demo(CONFIGS, arguments.root, arguments.seed)
    print("\nOne-step generation of {00, 11}:")
    for name, row in report["table1"].items():
        figures = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in row.items())
        print(f"  {name.upper():5}{figures}")
    for row in report["text"]["figures"]:
        print(f"  {row['model']}, {row['steps']} steps: Gen. PPL {row['Gen. PPL']:.0f}, entropy {row['entropy']:.2f}")
    print(f"\nThe report, with samples and plots: {arguments.root / 'report.md'}")
