"""Retention: which checkpoints of a run stay while it trains, and which are set aside at its start."""

from __future__ import annotations

import math
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.checkpoint.format import checkpoint_paths
from imdm_dist.checkpoint.read import open_checkpoint
from imdm_dist.files import read_record


@dataclass(frozen=True)
class Retention:
    """What to keep: the newest checkpoints, those at multiples of a number of steps, and the best."""

    last: int
    """Newest checkpoints kept, 1 or more."""
    every: int = 0
    """Steps whose multiples are kept for good; 0 keeps none."""
    best: bool = False
    """Keep the one with the lowest validation perplexity."""

    def kept(self, steps: Iterable[int], valid_ppl: Mapping[int, float | None]) -> set[int]:
        """Which steps' checkpoints stay.

        Args:
            valid_ppl: validation perplexity by step; those without a finite one are never the best.
        """
        steps = sorted(steps)
        kept = set(steps[-self.last :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        known = {step: ppl for step, ppl in valid_ppl.items() if ppl is not None and math.isfinite(ppl)}
        if self.best and known:
            kept.add(min(known, key=lambda step: known[step]))
        return kept

    def apply(self, folder: Path) -> None:
        """Remove the checkpoints of a run that are not kept."""
        paths, ppl = checkpoint_paths(folder), {}
        if self.best:
            ppl = {step: (read_record(path / run_files.STATE) or {}).get("valid_ppl") for step, path in paths.items()}
        for step in sorted(set(paths) - self.kept(paths, ppl)):
            # Out of sight first: a folder half removed must not look like a checkpoint.
            aside = folder / f".{paths[step].name}.{uuid.uuid4().hex}.tmp"
            os.replace(paths[step], aside)
            shutil.rmtree(aside)


def discard_broken(folder: Path) -> None:
    """Remove the checkpoints of a run that are not whole; call it only while nobody writes there."""
    for path in checkpoint_paths(folder).values():
        try:
            open_checkpoint(path)
        except ValueError:
            shutil.rmtree(path)


def set_aside(folder: Path, done: int) -> None:
    """Move checkpoints of later steps out of the way: they are damaged, or of a course that the run leaves now."""
    for step, path in checkpoint_paths(folder).items():
        if step > done:
            away = folder / run_files.SET_ASIDE / f"{path.name}-{uuid.uuid4().hex[:8]}"
            away.parent.mkdir(exist_ok=True)
            os.replace(path, away)
            print(f"the run goes on from step {done}: {path.name} is now {away}", file=sys.stderr)


def lost_without(folder: Path, began: int, done: int) -> str:
    """What is lost of a run whose process ends after step `done` without a save.

    Args:
        began: the step that this process went on from.
    """
    newest = max(checkpoint_paths(folder), default=began)
    if done <= newest:
        return f"nothing is lost, the last checkpoint is of step {newest}" if newest else "no step was done"
    steps = f"steps {newest + 1} to {done} are" if done > newest + 1 else f"step {done} is"
    return f"{steps} lost, {f'the last checkpoint is of step {newest}' if newest else 'there is no checkpoint yet'}"
