"""Variety of a set of samples: the share of its n-grams that are distinct.

Shape suffixes: B samples, L length.
"""

from __future__ import annotations

import numpy as np

from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled
from imdm_dist.evaluation.token_rows import Rows, ngram_hashes

ORDERS = (1, 2, 3)


class Distinct(Metric):
    """See `distinct_n`."""

    sample_columns = tuple(Column(f"distinct-{n}", f"distinct_{n}") for n in ORDERS)

    def of_samples(self, sampled: Sampled) -> Figures:
        """distinct_1 to distinct_3."""
        return {f"distinct_{n}": distinct_n(sampled.rows_BL, n) for n in ORDERS}


def distinct_n(samples_BL: Rows, n: int) -> float | None:
    """Distinct n-grams over all n-grams of the whole set of samples, in (0, 1]; None where L < n.

    It falls as the set grows: compare sets of one size only.
    """
    hashes = ngram_hashes(samples_BL, n)
    return len(np.unique(hashes)) / hashes.size if hashes.size else None
