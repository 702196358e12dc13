"""The trigram baseline: probabilities that sum to 1, counts by hand, and perplexities that make sense."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from imdm_dist.evaluation.kneser_ney import TrigramModel

VOCAB = 6  # five tokens and a mask, id 5


def _rows(count: int = 40, length: int = 7, seed: int = 0) -> np.ndarray:
    # Token 4 never occurs; squaring makes the rest uneven, so that all counts from one upwards occur.
    rows = (4 * np.random.default_rng(seed).random((count, length)) ** 2).astype(np.int64)
    rows[:, 0] = 0
    return rows


def test_probabilities_sum_to_one_in_every_context() -> None:
    model = TrigramModel.fit(_rows(), VOCAB)
    start = VOCAB
    for first, second in itertools.product((*range(5), start), repeat=2):
        chance = model.probabilities(model.pack(first, second, np.arange(5)))
        assert chance.min() > 0
        assert chance.sum() == pytest.approx(1, abs=1e-12)


def _by_hand(rows: np.ndarray, vocab_size: int, first: int, second: int, token: int) -> float:
    """Modified Kneser-Ney as in the textbook, with dictionaries and loops."""
    trigrams = Counter(
        tuple(row[at : at + 3]) for row in ([vocab_size, vocab_size, *row] for row in rows.tolist()) for at in range(7)
    )
    bigrams = Counter(gram[1:] for gram in trigrams)
    unigrams = Counter(gram[1:] for gram in bigrams)
    chance = 1 / (vocab_size - 1)
    for counts, context in ((unigrams, ()), (bigrams, (second,)), (trigrams, (first, second))):
        n = [sum(value == count for value in counts.values()) for count in range(5)]
        y = n[1] / (n[1] + 2 * n[2])
        discount = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        discount = [min(max(value, 0), count) for count, value in enumerate(discount)]
        following = {gram[-1]: value for gram, value in counts.items() if gram[:-1] == context}
        if following:
            count, total = following.get(token, 0), sum(following.values())
            left = sum(discount[min(value, 3)] for value in following.values())
            chance = (count - discount[min(count, 3)]) / total + left / total * chance
    return chance


def test_probabilities_match_the_textbook() -> None:
    size = 40
    rows = (39 * np.random.default_rng(1).random((60, 7)) ** 3).astype(np.int64)
    model = TrigramModel.fit(rows, size)
    for context in ((size, size), (size, 0), (0, 1), (2, 0), (30, 31)):
        for token in range(39):
            ours = model.probabilities(model.pack(*context, np.array([token])))[0]
            assert ours == pytest.approx(_by_hand(rows, size, *context, token), rel=1e-12)


def _perplexity(model: TrigramModel, rows: np.ndarray) -> float:
    return float(np.exp(model.nll(rows).mean()))


def test_perplexity_is_over_all_positions() -> None:
    rows = _rows()
    model = TrigramModel.fit(rows, VOCAB)
    row = rows[:1]
    contexts = [VOCAB, VOCAB, *row[0]]
    chances = [
        model.probabilities(model.pack(contexts[at], contexts[at + 1], row[0, at : at + 1]))[0] for at in range(7)
    ]
    assert _perplexity(model, row) == pytest.approx(np.exp(-np.log(chances).mean()))


def test_order_in_the_text_is_worth_something() -> None:
    # A random walk on a ring is predictable from its last token; the shuffled tokens are not.
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.integers(1, 3, (600, 20)), axis=1) % 50
    shuffled = rng.permuted(walk, axis=1)
    ordered = _perplexity(TrigramModel.fit(walk[:500], 51), walk[500:])
    unordered = _perplexity(TrigramModel.fit(shuffled[:500], 51), shuffled[500:])
    assert ordered < 3.2
    assert unordered > 30


def test_two_certain_rows() -> None:
    rows = np.array([[0, 0], [1, 1]] * 500)
    # The first token is a coin toss, the second is known: 2 ** (1 / 2).
    assert _perplexity(TrigramModel.fit(rows, 3), rows) == pytest.approx(2**0.5, rel=0.01)
