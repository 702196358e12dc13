"""Prefetching: the next step's micro-batches are made on the host while this one runs; and the seed of dropout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.examples import Examples
from imdm_dist.objectives.objective import Objective


class Prefetched:
    """Micro-batches of steps first to last - 1, on the host, each step's made and prepared while the one before it
    runs."""

    def __init__(self, examples: Examples, objective: Objective, first: int, last: int) -> None:
        self.examples, self.objective, self.first, self.last = examples, objective, first, last
        self.waited = 0.0
        """Seconds that the last step's batches were waited for."""

    def __iter__(self) -> Iterator[list[MaskedBatch]]:
        with ThreadPoolExecutor(1) as maker:
            ahead = maker.submit(self._make, self.first)
            for step in range(self.first, self.last):
                started = time.monotonic()
                batches = ahead.result()
                self.waited = time.monotonic() - started
                if step + 1 < self.last:
                    ahead = maker.submit(self._make, step + 1)
                yield batches

    def _make(self, step: int) -> list[MaskedBatch]:
        return [self.objective.prepare(batch, step) for batch in self.examples.step(step)]


def seed_dropout(batch: MaskedBatch) -> None:
    """Make dropout a function of the run's seed and the micro-batch's first example: nothing of it need be saved.

    Ranks that share a model draw the same, ranks that see different data do not.
    """
    torch.manual_seed(int(batch.draw_seed_B[0]))
