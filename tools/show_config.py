"""Print a resolved configuration as YAML, without running anything."""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded
from imdm_dist.config import Config, describe, load_config, read_yaml, to_yaml

EPILOG = """examples:
  python tools/show_config.py                                   the defaults
  python tools/show_config.py model.mask.kind=infinite          with a setting changed
  python tools/show_config.py my_run.yaml train.steps=10        a YAML file, then settings over it
  python tools/show_config.py --describe > my_run.yaml          every setting with its documentation
What is printed can be given back in place of the file, a chain's also to tools/run_chain.py.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--describe", action="store_true", help="print the documented defaults instead")
    parser.add_argument(
        "settings", nargs="*", default=[], help="a YAML file (one stage, or a chain), then any key.sub=value"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.describe:
        if arguments.settings:
            raise ValueError("--describe prints the defaults: leave out the file and settings, or leave out --describe")
        print(describe(Config), end="")
        return
    path = arguments.settings[0] if arguments.settings and "=" not in arguments.settings[0] else None
    overrides = arguments.settings[0 if path is None else 1 :]
    if path is not None and "stages" in read_yaml(path):
        from imdm_dist.chain.chain import chain_yaml, load_chain

        print(chain_yaml(load_chain(path, overrides)), end="")
    else:
        print(to_yaml(load_config(Config, path, overrides)), end="")


if __name__ == "__main__":
    guarded(main)
