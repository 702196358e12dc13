"""Token rows as arrays, and hashes of their n-grams.

Shape suffixes: B rows, L length, G n-grams of a row (L - n + 1).
"""

from __future__ import annotations

import numpy as np
import torch

Rows = np.ndarray | torch.Tensor

# An odd 64-bit constant (the golden ratio's): multiplication by it permutes the 64-bit integers.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def as_array(rows: Rows) -> np.ndarray:
    """Token rows as a NumPy array, without a copy where that is possible."""
    return rows.numpy(force=True) if isinstance(rows, torch.Tensor) else np.asarray(rows)


def ngram_hashes(rows_BL: Rows, n: int) -> np.ndarray:
    """Polynomial hashes modulo 2**64 of all n-grams within the rows: uint64 [B, G], G = 0 where L < n.

    Equal hashes are taken for equal n-grams: among a million generated and a hundred million reference
    n-grams the expected number of false matches is 1e14 / 2**64, or 5e-6, so candidates are not compared.
    """
    ids_BL = as_array(rows_BL)
    n_grams = max(ids_BL.shape[1] - n + 1, 0)
    hashes_BG = np.zeros((ids_BL.shape[0], n_grams), dtype=np.uint64)
    for place in range(n):
        hashes_BG *= _MULTIPLIER
        hashes_BG += ids_BL[:, place : place + n_grams].astype(np.uint64)
    return hashes_BG
