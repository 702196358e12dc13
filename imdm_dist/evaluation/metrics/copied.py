"""How much of the samples is copied from the coupling that a model learned.

Shape suffixes: B samples, L length, P reference rows.
"""

from __future__ import annotations

import numpy as np

from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled
from imdm_dist.evaluation.token_rows import Rows, as_array, ngram_hashes

_CHUNK_TOKENS = 2**22


class Copied(Metric):
    """See `copied_ngrams`."""

    sample_columns = (Column("copied 8-grams", "copied_8grams"),)

    def of_samples(self, sampled: Sampled) -> Figures:
        """copied_8grams, of a model that has a reference."""
        if sampled.reference_PL is None:
            return {}
        return {"copied_8grams": copied_ngrams(sampled.rows_BL, sampled.reference_PL, n=8)}


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
