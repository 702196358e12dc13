"""Every division of the work against one process, and resuming in others: the table of docs/results/parallel.md.

python -m tests.parallel_matrix --write docs/results/parallel.md
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from imdm_dist.versions import versions
from tests import parity
from tests.parity import (
    STAGES,
    STEPS,
    Split,
    bits_equal,
    config_of,
    curve,
    cut_off,
    difference,
    matrix,
    middle,
    relative,
)
from tests.ranks import Ranks

BOUNDS = {"loss": 1e-5, "grad_norm": 1e-5, "ema": 1e-6}
HEAD = """# Any division of the work

{steps} steps of each stage in every division, against one process without ZeRO: float32 on a CPU (gloo), every
parameter random, no warm-up, clipping active, four heads, a vocabulary of 301, no dropout. Shown are the largest
relative difference of the losses and of the gradient norms, and the largest absolute difference of a weight of the EMA;
bounds {bounds}.

*Resumed elsewhere*: the one-process run is cut off at step {cut} and goes on in this division; and this division's run
is cut off there and goes on in the next row's. Shown is the largest relative difference of the losses from those of the
unbroken one-process run; bound 1e-05. *Resumed here*: the same division goes on from its own checkpoint, with dropout
0.1, and ends with the same bits of weights, EMA and both moments (and of the SDTT teacher, inside a round).

`make test-parallel` ({versions}; {minutes:.0f} minutes on {cores} CPU core(s))

| stage | ZeRO | tensor parallel | ranks | loss | gradient norm | EMA | resumed elsewhere | resumed here |
|---|---|---|---|---|---|---|---|---|
"""


class Runs:
    """Runs by stage and split, each made once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.world: Ranks | None = None

    def on(self, size: int) -> Ranks:
        """Processes of a world; one world at a time."""
        if self.world is None or self.world.world != size or not self.world.alive:
            if self.world is not None:
                self.world.close()
            self.world = Ranks(size)
        return self.world

    def run(self, stage: str, split: Split, folder: Path, dropout: float = 0.0) -> Path:
        """Train, or go on, in a folder."""
        self.on(split.world).run(parity.run, config_of(self.home, stage, split, dropout=dropout), str(folder))
        return folder

    def whole(self, stage: str, split: Split, dropout: float = 0.0) -> Path:
        """An unbroken run."""
        folder = self.home / f"{stage}-{split.name}-{dropout}"
        return folder if folder.exists() else self.run(stage, split, folder, dropout)

    def resumed(self, stage: str, source: Split, target: Split, dropout: float = 0.0) -> Path:
        """A run of `source` cut off in its middle, which goes on in `target`."""
        folder = self.home / f"{stage}-{source.name}-to-{target.name}-{dropout}"
        if not folder.exists():
            cut_off(self.whole(stage, source, dropout), folder)
            self.run(stage, target, folder, dropout)
        return folder


def row(runs: Runs, stage: str, split: Split, following: Split) -> tuple[str, bool]:
    """A line of the table, and whether it keeps all bounds."""
    single = curve(runs.whole(stage, Split()))
    found = difference(curve(runs.whole(stage, split)), single)
    losses = single.losses[middle(STEPS) :]
    there = runs.resumed(stage, Split(), split), runs.resumed(stage, split, following)
    elsewhere = max(relative(curve(folder).losses, losses) for folder in there)
    quantities = ("weights", "ema", "exp_avg", "exp_avg_sq") + (("objective",) if stage == "sdtt" else ())
    whole = curve(runs.whole(stage, split, 0.1), quantities)
    here = bits_equal(curve(runs.resumed(stage, split, split, 0.1), quantities), whole)
    good = all(found[name] <= bound for name, bound in BOUNDS.items()) and elsewhere <= 1e-5 and here
    cells = [stage, split.zero, split.tp, split.world, *(f"{found[name]:.1e}" for name in BOUNDS), f"{elsewhere:.1e}"]
    return f"| {' | '.join(map(str, cells))} | {'same bits' if here else 'DIFFERS'} |", good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the table there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        parity.prepare(Path(home))
        runs = Runs(Path(home))
        splits = matrix()
        lines, bad = [], []
        for number, split in enumerate(tqdm(splits, unit="division")):
            for stage in STAGES:
                line, good = row(runs, stage, split, splits[(number + 1) % len(splits)])
                lines.append(line)
                bad += [] if good else [line]
        assert runs.world is not None
        runs.world.close()
    about = {name: versions()[name] for name in ("python", "torch", "deepspeed", "megatron-core")}
    text = HEAD.format(
        steps=STEPS,
        cut=middle(STEPS),
        bounds=", ".join(f"{bound:.0e}" for bound in BOUNDS.values()),
        versions=", ".join(f"{name} {version}" for name, version in about.items()),
        minutes=(time.monotonic() - started) / 60,
        cores=len(os.sched_getaffinity(0)),
    )
    text += "\n".join(sorted(lines, key=lambda line: STAGES.index(line.split(" ")[1]))) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    if bad:
        sys.exit(f"error: {len(bad)} rows break a bound:\n" + "\n".join(bad))


if __name__ == "__main__":
    main()
