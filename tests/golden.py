"""Losses that the code is known to give on a CPU; `python -m tests.golden --write` makes the file anew.

Write it only in a commit that is meant to change numbers, and say so in its message.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from imdm_dist.training.loop import train
from tests import parity
from tests.parity import Curve, Split

FILE = Path(__file__).with_name("golden_losses.json")


def curves(home: Path) -> dict[str, Curve]:
    """Run every stage in one process."""
    parity.prepare(home)
    found = {}
    for stage in parity.STAGES:
        train(parity.config_of(home, stage, Split(), dropout=0.1), home / f"golden-{stage}")
        found[stage] = parity.curve(home / f"golden-{stage}")
    return found


def as_json(found: dict[str, Curve]) -> dict[str, dict[str, list[float]]]:
    """What is compared."""
    return {stage: {"loss": curve.losses, "grad_norm": curve.norms} for stage, curve in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="replace the file")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        FILE.write_text(json.dumps(as_json(curves(Path(home))), indent=1) + "\n")


if __name__ == "__main__":
    main()
