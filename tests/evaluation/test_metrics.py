"""Entropy, distinct n-grams and copied n-grams against plain definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from imdm_dist.config import EvaluationConfig
from imdm_dist.data import Dataset
from imdm_dist.evaluation.metric import Sampled, Subject
from imdm_dist.evaluation.metrics import copied
from imdm_dist.evaluation.metrics.copied import Copied, copied_ngrams
from imdm_dist.evaluation.metrics.distinct import Distinct, distinct_n
from imdm_dist.evaluation.metrics.entropy import Entropy, sample_entropy
from imdm_dist.evaluation.token_rows import ngram_hashes
from tests.small import small_model


def _grams(rows: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(row[first : first + n]) for row in rows.tolist() for first in range(len(row) - n + 1)]


def test_entropy_of_known_rows() -> None:
    rows = np.array([[7, 7, 7, 7], [1, 2, 1, 2], [1, 2, 3, 4]])
    assert sample_entropy(rows) == pytest.approx((0 + math.log(2) + math.log(4)) / 3)
    assert str(sample_entropy(rows[:1])) == "0.0"  # and not -0.0


def test_entropy_is_a_mean_over_samples_not_of_the_pooled_tokens() -> None:
    assert sample_entropy(np.array([[0, 0, 0], [5, 5, 5]])) == 0


def test_entropy_matches_torch_on_random_rows() -> None:
    rows = torch.randint(0, 50, (20, 64), generator=torch.Generator().manual_seed(0))
    expected = [torch.special.entr(row.bincount() / 64).sum().item() for row in rows]
    assert sample_entropy(rows) == pytest.approx(sum(expected) / 20, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_n_matches_sets(n: int) -> None:
    rows = np.random.default_rng(1).integers(0, 6, (30, 17))
    grams = _grams(rows, n)
    assert distinct_n(rows, n) == len(set(grams)) / len(grams)


def test_copied_ngrams_count_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    reference = rng.integers(0, 4, (50, 13))
    samples = np.concatenate((rng.integers(0, 4, (40, 11)), np.repeat(reference[:1, :11], 5, axis=0)))
    known = set(_grams(reference, 5))
    grams = _grams(samples, 5)
    expected = sum(gram in known for gram in grams) / len(grams)
    assert 0.2 < expected < 1
    assert copied_ngrams(samples, reference, n=5) == expected
    monkeypatch.setattr(copied, "_CHUNK_TOKENS", 13 * 7)
    assert copied_ngrams(torch.from_numpy(samples), torch.from_numpy(reference), n=5) == expected


def test_ngrams_do_not_run_across_rows() -> None:
    reference = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert copied_ngrams(np.array([[3, 4, 5, 6]]), reference, n=3) == 0
    assert copied_ngrams(np.array([[9, 2, 3, 4]]), reference, n=3) == 0.5


def test_rows_shorter_than_n_have_no_figure() -> None:
    rows = np.array([[1, 2, 3]])
    assert copied_ngrams(rows, rows, n=8) is None
    assert distinct_n(rows, 4) is None


def test_hashes_tell_ngrams_of_a_large_vocabulary_apart() -> None:
    rows = np.random.default_rng(3).integers(0, 50_258, (500, 1024))
    hashes = ngram_hashes(rows, 8)
    assert hashes.shape == (500, 1017)
    assert len(np.unique(hashes)) == hashes.size
    # The order of the tokens matters.
    assert ngram_hashes(np.array([[1, 2]]), 2) != ngram_hashes(np.array([[2, 1]]), 2)


def test_metrics_name_their_figures() -> None:
    rows = np.array([[1, 2, 3]])
    sampled = Sampled(rows, small_model(), steps=1, seed=0, reference_PL=rows)
    subject = Subject(EvaluationConfig(), cast(Dataset, None), valid_rows=1, scorer=None)
    assert Entropy(subject).of_samples(sampled) == {"entropy": pytest.approx(math.log(3))}
    assert Distinct(subject).of_samples(sampled) == {"distinct_1": 1, "distinct_2": 1, "distinct_3": 1}
    assert Copied(subject).of_samples(sampled) == {"copied_8grams": None}  # rows are shorter than that
    assert Copied(subject).of_samples(replace(sampled, reference_PL=None)) == {}
