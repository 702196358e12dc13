"""Cancel the jobs of a chain on SLURM; what they have made is kept."""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_chain

EXAMPLES = """example:
  imdm_dist cancel configs/pipeline/owt_860m.yaml
imdm_dist run goes on from what is there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_chain(parser)


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.chain.chain import load_chain
    from imdm_dist.chain.cluster import cancel_chain

    chain = load_chain(arguments.chain, arguments.overrides)
    cancelled = cancel_chain(arguments.root / chain.name)
    print(f"cancelled {', '.join(map(str, cancelled))}" if cancelled else "no job of this chain is in the queue")
