"""Print a resolved configuration as YAML, without running anything."""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_file_and_overrides, file_and_overrides
from imdm_dist.config import Config, describe, load_config, read_yaml, to_yaml

EXAMPLES = """examples:
  imdm_dist config                                   the defaults
  imdm_dist config model.mask.kind=infinite          with a setting changed
  imdm_dist config my_run.yaml train.steps=10        a YAML file, then settings over it
  imdm_dist config --describe > my_run.yaml          every setting with its documentation
What is printed can be given back in place of the file, a chain's also to imdm_dist run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--describe", action="store_true", help="print the documented defaults instead")
    add_file_and_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.describe:
        if arguments.settings:
            raise ValueError("--describe prints the defaults: leave out the file and settings, or leave out --describe")
        print(describe(Config), end="")
        return
    path, overrides = file_and_overrides(arguments.settings)
    if path is not None and "stages" in read_yaml(path):
        from imdm_dist.chain.chain import chain_yaml, load_chain

        print(chain_yaml(load_chain(path, overrides)), end="")
    else:
        print(to_yaml(load_config(Config, path, overrides)), end="")
