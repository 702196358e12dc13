"""Show the stages of a chain: what is whole, runs, waits, is half done or missing, and why. It only looks."""

from __future__ import annotations

import argparse
import sys

from imdm_dist.commands.arguments import add_chain

EXAMPLES = """examples:
  imdm_dist status configs/embedded_chain.yaml
  imdm_dist status configs/pipeline/owt_860m.yaml sdtt/train.seed=1
Without settings it takes those of the last run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_chain(parser)


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.chain.chain import last_overrides, load_chain
    from imdm_dist.chain.status import status, status_text

    chain = load_chain(arguments.chain, arguments.overrides)
    last = last_overrides(arguments.root / chain.name)
    if last and not arguments.overrides:
        chain = load_chain(arguments.chain, last)
        print(f"with the settings it was last run with: {' '.join(last)}", file=sys.stderr)
    print(status_text(status(chain, arguments.root)))
