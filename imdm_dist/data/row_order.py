"""The order in which training visits rows: a fresh permutation every epoch, any part of it on demand.

Sample i is row `permutation(i // rows)[i % rows]`, and a permutation is a function of (seed, epoch),
so neither the batch size, the world size nor a restart can change which row sample i is.

Shape suffixes: E epochs, R rows of the data.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from imdm_dist.draws import Purpose, derive_seed, uniform

_DRAWN_TOGETHER = 2**13
_PIECE = 2**16


class RowOrder:
    """Row indices by global sample index.

    Args:
        rows: rows of the data, at least 1.
        seed: run seed, int64.
    """

    def __init__(self, rows: int, seed: int) -> None:
        assert rows >= 1
        self.rows = rows
        self.seed = seed
        # A tiny data set sees many epochs in one batch: their permutations are drawn in one go.
        self._epochs = max(1, _DRAWN_TOGETHER // rows)
        self._block = lru_cache(maxsize=2)(self._draw_block)

    def _draw_block(self, block: int) -> np.ndarray:
        """Permutations of epochs block * E to (block + 1) * E - 1, one after the other, int64 [E * R]."""
        epoch_E = torch.arange(block * self._epochs, (block + 1) * self._epochs)
        seed_E = derive_seed(self.seed, Purpose.ORDER, epoch_E)
        # Piece by piece: a draw takes ten times its own memory while it is made.
        pieces = torch.arange(self.rows).split(_PIECE)
        draw_ER = torch.cat([uniform(seed_E[:, None], Purpose.ORDER, piece) for piece in pieces], dim=1)
        return torch.argsort(draw_ER, dim=1, stable=True).flatten().numpy()

    def rows_of(self, first: int, count: int) -> np.ndarray:
        """Rows of the samples first, ..., first + count - 1.

        Args:
            first: global index of the first sample since the start of the run, 0 or more.
            count: samples wanted, 0 or more.

        Returns:
            int64 [count], each in [0, rows).
        """
        size = self._epochs * self.rows
        parts = [np.empty(0, dtype=np.int64)]
        while count > 0:
            block, offset = divmod(first, size)
            parts.append(self._block(block)[offset : offset + count])
            first += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)
