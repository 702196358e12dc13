"""Figures of a set of sampled token rows: entropy, variety, and how much of it is copied.

Shape suffixes: B samples, L length, P reference rows, G n-grams of a row (L - n + 1).
"""

from __future__ import annotations

import numpy as np
import torch

Rows = np.ndarray | torch.Tensor

# An odd 64-bit constant (the golden ratio's): multiplication by it permutes the 64-bit integers.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CHUNK_TOKENS = 2**22


def as_array(rows: Rows) -> np.ndarray:
    """Token rows as a NumPy array, without a copy where that is possible."""
    return rows.numpy(force=True) if isinstance(rows, torch.Tensor) else np.asarray(rows)


def sample_entropy(samples_BL: Rows) -> float:
    """Mean over the samples of the entropy, in nats, of a sample's own histogram of token ids.

    The convention of DUO and of arXiv 2605.10518 (Table 5); at most ln L. Low values mean repetition within
    a sample; alike samples do not lower it (see `distinct_n`).
    """
    rows_BL = np.sort(as_array(samples_BL), axis=1)
    n_rows, length = rows_BL.shape
    starts_BL = np.ones((n_rows, length), dtype=bool)
    starts_BL[:, 1:] = rows_BL[:, 1:] != rows_BL[:, :-1]
    first = np.flatnonzero(starts_BL)
    share = np.diff(first, append=n_rows * length) / length
    return float(0 - (share * np.log(share)).sum() / n_rows)  # not -0.0, that of rows of one token


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


def distinct_n(samples_BL: Rows, n: int) -> float | None:
    """Distinct n-grams over all n-grams of the whole set of samples, in (0, 1]; None where L < n.

    It falls as the set grows: compare sets of one size only.
    """
    hashes = ngram_hashes(samples_BL, n)
    return len(np.unique(hashes)) / hashes.size if hashes.size else None


def copied_ngrams(samples_BL: Rows, reference_PL: Rows, n: int = 8) -> float | None:
    """Share of the generated n-grams, repeats counted, that occur in some reference row; None where L < n.

    The reference is a coupling's results or the training rows (a memory map will do): it is read in chunks, so
    100,000 rows of 1,024 tokens need a few hundred MB. n-grams do not run across rows.
    """
    reference = reference_PL if isinstance(reference_PL, np.ndarray) else as_array(reference_PL)
    if min(samples_BL.shape[1], reference.shape[1]) < n:
        return None
    generated, counts = np.unique(ngram_hashes(samples_BL, n), return_counts=True)
    found = np.zeros(len(generated), dtype=bool)
    rows_at_a_time = max(1, _CHUNK_TOKENS // reference.shape[1])
    for first in range(0, len(reference), rows_at_a_time):
        known = np.sort(ngram_hashes(reference[first : first + rows_at_a_time], n), axis=None)
        place = np.minimum(np.searchsorted(known, generated), len(known) - 1)
        found |= known[place] == generated
    return float(counts[found].sum() / counts.sum())


def text_figures(samples_BL: Rows, reference_PL: Rows | None = None) -> dict[str, float | None]:
    """All of the above by name: entropy, distinct_1 to distinct_3 and, given a reference, copied_8grams."""
    figures: dict[str, float | None] = {"entropy": sample_entropy(samples_BL)}
    for n in (1, 2, 3):
        figures[f"distinct_{n}"] = distinct_n(samples_BL, n)
    if reference_PL is not None:
        figures["copied_8grams"] = copied_ngrams(samples_BL, reference_PL, n=8)
    return figures
