"""Run a chain of stages on this machine: teacher, SDTT, coupling, ReDi, evaluation, from one YAML file."""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded

EXAMPLE = """example, the whole method on the embedded text:
  python tools/run_chain.py configs/embedded_chain.yaml
Settings win over the file's, in all stages or in one:
  python tools/run_chain.py configs/embedded_chain.yaml train.seed=1 teacher/train.steps=500
Run the same command again after an interruption: what is whole is kept, the rest goes on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chain", help="YAML file of the chain")
    parser.add_argument("--root", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--workers", type=int, help="rollout processes, 1 or more (default: one a core or GPU)")
    parser.add_argument("overrides", nargs="*", default=[], metavar="[stage/]key.sub=value")
    arguments = parser.parse_intermixed_args()
    from imdm_dist.chain import load_chain, run_chain

    folders = run_chain(load_chain(arguments.chain, arguments.overrides), arguments.root, arguments.workers)
    for name, folder in folders.items():
        print(f"{name}: {folder}")


if __name__ == "__main__":
    guarded(main)
