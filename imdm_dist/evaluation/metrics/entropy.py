"""Entropy of samples: low where a sample repeats itself.

Shape suffixes: B samples, L length.
"""

from __future__ import annotations

import numpy as np

from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled
from imdm_dist.evaluation.token_rows import Rows, as_array


class Entropy(Metric):
    """See `sample_entropy`."""

    sample_columns = (Column("entropy", "entropy"),)

    def of_samples(self, sampled: Sampled) -> Figures:
        """entropy, in nats."""
        return {"entropy": sample_entropy(sampled.rows_BL)}


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
