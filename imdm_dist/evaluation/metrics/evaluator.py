"""Perplexity of the evaluator on the validation rows: how good a judge it is."""

from __future__ import annotations

from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.metric import Figures, Subject
from imdm_dist.evaluation.metrics.valid_ppl import OnValidationRows


class Evaluator(OnValidationRows):
    """The causal language model that scores samples."""

    baseline = "evaluator"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.notes += ("The evaluator's over all tokens leaves out the first of each row.",)

    def of_baseline(self) -> Figures | None:
        """text and all: perplexities; None without an evaluator, and of one that does not read the rows' ids."""
        scorer = self.subject.scorer
        if scorer is None or not scorer.ids:
            return None
        return perplexities(scorer.lm, self.subject.data.valid, self.subject.valid_rows, progress=True).to_dict()
