"""A chain of stages as a pipeline: see what is there, submit what is missing to SLURM, or make it here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imdm_dist.cli import guarded
from imdm_dist.signals import heed_signals

EXAMPLE = """examples:
  python tools/pipeline.py run configs/pipeline/owt_860m.yaml            submit what is missing, a job a stage
  python tools/pipeline.py run configs/pipeline/owt_860m.yaml --dry-run  say what that would be, and why
  python tools/pipeline.py status configs/pipeline/owt_860m.yaml
  python tools/pipeline.py run configs/embedded_chain.yaml --local       make it on this machine instead
  python tools/pipeline.py here configs/pipeline/owt_860m.yaml --stage redi    in a batch script (slurm/*.sh)
  python tools/pipeline.py provenance runs/owt_860m/redi-0a1b2c3d
Settings win over the file's, in all stages or in one: train.seed=1 teacher/resources.nodes=4
Without settings, status takes those of the last run or here.
Giving a command again is always safe: what is whole is kept, what was cut off goes on."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "run": "submit what is missing",
        "status": "a table of the stages",
        "cancel": "cancel the jobs; what they have made is kept",
        "here": "make stages with the processes of this job",
    }
    for command, text in helps.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("chain", help="YAML file of the chain")
        sub.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
        if command in ("run", "here"):
            sub.add_argument("--local", action="store_true", help="on this machine instead")
            sub.add_argument("--processes", type=int, default=1, metavar="N", help="of --local (default: 1)")
        if command == "run":
            sub.add_argument("--dry-run", action="store_true", help="say what would be submitted, and submit nothing")
        if command == "here":
            sub.add_argument("--stage", help="this stage and what it starts from (default: all)")
            sub.add_argument("--only", action="store_true", help="refuse to make what it starts from")
            sub.add_argument("--data", action="store_true", help="prepare the data and stop")
        sub.add_argument(
            "overrides", nargs="*", default=[], metavar="key.sub=value", help="settings that win over the file's"
        )
    sub = commands.add_parser("provenance", help="what a stage was made from", description="what a stage was made from")
    sub.add_argument("folder", help="folder of a whole stage")
    # Options may stand between settings, which argparse does not allow by itself where there are subcommands.
    arguments, rest = parser.parse_known_args()
    wrong = [one for one in rest if one.startswith("-") or arguments.command == "provenance"]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        arguments.overrides += rest
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.command == "here" or getattr(arguments, "local", False):
        heed_signals()  # the other commands end at a signal, as any
    if arguments.command == "provenance":
        from imdm_dist.chain.provenance import provenance

        print(provenance(arguments.folder))
        return
    from imdm_dist.chain.chain import load_chain, needed

    chain = load_chain(arguments.chain, arguments.overrides)
    if arguments.command == "status":
        from imdm_dist.chain.remembered import remembered
        from imdm_dist.chain.status import status, status_text

        last = remembered(arguments.root / chain.name)
        if last and not arguments.overrides:
            chain = load_chain(arguments.chain, last)
            print(f"with the settings it was last run with: {' '.join(last)}", file=sys.stderr)
        print(status_text(status(chain, arguments.root)))
    elif arguments.command == "cancel":
        from imdm_dist.chain.cluster import cancel_chain

        cancelled = cancel_chain(arguments.root / chain.name)
        print(f"cancelled {', '.join(map(str, cancelled))}" if cancelled else "no job of this chain is in the queue")
    elif arguments.command == "run" and not arguments.local:
        from imdm_dist.chain.cluster import submit_chain

        submit_chain(chain, arguments.root, arguments.dry_run)
    elif getattr(arguments, "dry_run", False):
        raise ValueError("--dry-run says what would be submitted: leave out --local, or take status")
    else:
        from imdm_dist.chain.here import make_here
        from imdm_dist.chain.runner import prepare_data

        wanted = getattr(arguments, "stage", None)
        stages = needed(chain, wanted) if wanted else chain.stages
        if getattr(arguments, "data", False):
            prepare_data(chain, stages)
            return
        only = getattr(arguments, "only", False)
        if only and not wanted:
            raise ValueError("--only goes with --stage: name the stage")
        if arguments.processes < 1:
            raise ValueError(f"--processes is {arguments.processes}: give 1 or more")
        processes = arguments.processes if arguments.local else 0
        for name, folder in make_here(chain, stages, arguments.root, processes, only).items():
            print(f"{name}: {folder}")


if __name__ == "__main__":
    guarded(main)
