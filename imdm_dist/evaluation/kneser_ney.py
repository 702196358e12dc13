"""Trigram language model with interpolated, modified Kneser-Ney smoothing: a baseline that a teacher must beat.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), Eq. 18 to 26.
n-grams are integers in base S + 1, where S = `vocab_size` stands for the start of a row; counting is sorting.

Shape suffixes: N training rows, M scored rows, L length, K n-grams of one order, C contexts, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imdm_dist.evaluation.token_rows import Rows, as_array


@dataclass(frozen=True)
class _Order:
    """Discounted relative frequencies of one n-gram order, and the mass its contexts leave to the order below."""

    grams_K: np.ndarray
    discounted_K: np.ndarray
    contexts_C: np.ndarray
    backoff_C: np.ndarray

    @classmethod
    def fit(cls, grams_K: np.ndarray, counts_K: np.ndarray, base: int) -> _Order:
        """From the sorted distinct n-grams of the order and their (raw or continuation) counts."""
        how_many = [int((counts_K == count).sum()) for count in (1, 2, 3, 4)]
        scale = how_many[0] / max(how_many[0] + 2 * how_many[1], 1)
        discount = np.zeros(4)
        for count in (1, 2, 3):
            raw = count - (count + 1) * scale * how_many[count] / max(how_many[count - 1], 1)
            discount[count] = min(max(raw, 0.0), count)
        discount_K = discount[np.minimum(counts_K, 3)]
        contexts_C, first_C, context_of_K = np.unique(grams_K // base, return_index=True, return_inverse=True)
        total_C = np.add.reduceat(counts_K, first_C)
        return cls(
            grams_K=grams_K,
            discounted_K=(counts_K - discount_K) / total_C[context_of_K],
            contexts_C=contexts_C,
            backoff_C=np.add.reduceat(discount_K, first_C) / total_C,
        )

    def interpolate(self, grams_Q: np.ndarray, base: int, lower_Q: np.ndarray) -> np.ndarray:
        """Probability of the last token of each n-gram, given its probability in the order below."""
        own_Q = _look_up(self.grams_K, self.discounted_K, grams_Q, missing=0.0)
        # A context that was never seen leaves everything to the order below.
        backoff_Q = _look_up(self.contexts_C, self.backoff_C, grams_Q // base, missing=1.0)
        return own_Q + backoff_Q * lower_Q


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)


@dataclass(frozen=True)
class TrigramModel:
    """P(token | the two tokens before it in its row); a row's start is a context of its own."""

    vocab_size: int
    orders: tuple[_Order, _Order, _Order]

    @classmethod
    def fit(cls, rows_NL: Rows, vocab_size: int) -> TrigramModel:
        """Count and smooth the n-grams of the rows, which hold no mask id.

        Args:
            rows_NL: token rows, integers in [0, vocab_size).
            vocab_size: entries of the vocabulary, mask included as everywhere; the last resort of the smoothing is
                uniform over the vocab_size - 1 others, so probabilities sum to 1 over all ids but the mask.
        """
        base = vocab_size + 1
        assert base**3 < 2**63, "trigrams of this vocabulary do not fit 64 bits"
        trigrams, counts = np.unique(_trigrams(rows_NL, vocab_size), return_counts=True)
        # Below the highest order an n-gram counts once for each token it follows (continuation counts).
        bigrams, bigram_counts = np.unique(trigrams % base**2, return_counts=True)
        unigrams, unigram_counts = np.unique(bigrams % base, return_counts=True)
        return cls(
            vocab_size=vocab_size,
            orders=(
                _Order.fit(unigrams, unigram_counts, base),
                _Order.fit(bigrams, bigram_counts, base),
                _Order.fit(trigrams, counts, base),
            ),
        )

    def probabilities(self, trigrams_Q: np.ndarray) -> np.ndarray:
        """Probability float64 [Q] of the last token of each packed trigram (see `pack`)."""
        base = self.vocab_size + 1
        chance_Q = np.full(trigrams_Q.shape, 1 / (self.vocab_size - 1))
        for n, order in enumerate(self.orders, start=1):
            chance_Q = order.interpolate(trigrams_Q % base**n, base, chance_Q)
        return chance_Q

    def pack(self, first: np.ndarray | int, second: np.ndarray | int, token: np.ndarray) -> np.ndarray:
        """Trigrams as int64; `vocab_size` as first or second token stands for the start of a row."""
        base = self.vocab_size + 1
        return (np.asarray(first, dtype=np.int64) * base + second) * base + token

    def nll(self, rows_ML: Rows) -> np.ndarray:
        """Negative log-likelihood of every token given those before it in its row, nats, float64 [M, L].

        Forced tokens are among them, and a trigram does not know that a row ends: see `evaluation.held_out_perplexity`.
        """
        trigrams = _trigrams(rows_ML, self.vocab_size)
        return -np.log(self.probabilities(trigrams)).reshape(as_array(rows_ML).shape)


def _trigrams(rows_NL: Rows, vocab_size: int) -> np.ndarray:
    """All trigrams of the rows as int64, each row preceded by two start symbols."""
    rows = as_array(rows_NL)
    assert rows.size == 0 or (rows.min() >= 0 and rows.max() < vocab_size), "token id outside the vocabulary"
    padded = np.full((rows.shape[0], rows.shape[1] + 2), vocab_size, dtype=np.int64)
    padded[:, 2:] = rows
    base = vocab_size + 1
    return ((padded[:, :-2] * base + padded[:, 1:-1]) * base + padded[:, 2:]).ravel()
