"""Perplexity of a trigram on the validation rows: a teacher that does not beat it has learned little."""

from __future__ import annotations

from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.kneser_ney import TrigramModel
from imdm_dist.evaluation.metric import Figures
from imdm_dist.evaluation.metrics.valid_ppl import OnValidationRows

MAX_TOKENS = 50_000_000
"""Tokens that fit in memory as counted trigrams."""


class Trigram(OnValidationRows):
    """Interpolated modified Kneser-Ney, counted on the training rows."""

    baseline = "trigram (modified Kneser-Ney)"

    def of_baseline(self) -> Figures | None:
        """text and all: perplexities; None for text too large to count."""
        train, valid = self.subject.data.train, self.subject.data.valid
        if train.rows * train.length > MAX_TOKENS:
            return None
        trigram = TrigramModel.fit(train.tokens, train.vocab_size)
        return perplexities(trigram, valid, self.subject.valid_rows).to_dict()
