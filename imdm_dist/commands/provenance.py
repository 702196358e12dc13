"""Say what a stage was made from: settings, seeds, versions, text, and the same of all that it started from."""

from __future__ import annotations

import argparse

EXAMPLES = """example:
  imdm_dist provenance runs/owt_860m/redi-0a1b2c3d"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of a whole stage")


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.chain.provenance import provenance

    print(provenance(arguments.folder))
