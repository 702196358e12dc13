"""A process of a stage: `python -m imdm_dist.chain.stage_process ORDER` does its part of what an order says."""

from __future__ import annotations

import sys
from pathlib import Path

from imdm_dist.error_boundary import guarded
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import read_json
from imdm_dist.signals import heed_signals, leave_stopped


def main() -> None:
    """Do this process's part."""
    heed_signals()
    from imdm_dist.chain.chain import load_chain
    from imdm_dist.chain.runner import execute
    from imdm_dist.parallel.environment import place_of_this_process

    order = read_json(sys.argv[1])
    chain = load_chain(order["chain"])
    stage = chain.stage(order["stage"])
    try:
        execute(chain, stage, {name: Path(path) for name, path in order["folders"].items()})
    except SystemExit as end:
        # Those that work apart end each by itself, and nobody is killed for it.
        if end.code == EXIT_STOPPED and stage.processes == "together":
            leave_stopped(place_of_this_process().rank)
        raise


if __name__ == "__main__":
    guarded(main)
