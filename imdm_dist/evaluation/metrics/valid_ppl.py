"""Validation perplexity of the models: of diffusion models an upper bound (see `objectives.validation`)."""

from __future__ import annotations

from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.metric import Column, Figures, Metric, Subject
from imdm_dist.model import Backbone


class OnValidationRows(Metric):
    """A perplexity of the first `train.valid_rows` validation rows, over text tokens and over all."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        rows = min(subject.valid_rows, subject.data.valid.rows)
        self.model_columns = Column(f"validation PPL, {rows} rows: text tokens", "text"), Column("all tokens", "all")
        self.notes = ("Text tokens are all but the first and last of a row, which packing forces.",)


class ValidPpl(OnValidationRows):
    """Of each model, with the standard error of the draws behind it."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.notes += (
            "± is the standard error over draws of times, masks and noise, "
            f"{subject.settings.valid_draws} a row, for these rows; the models' figures are upper bounds.",
        )

    def of_model(self, model: Backbone) -> Figures:
        """text and all: perplexities."""
        subject = self.subject
        draws = subject.settings.valid_draws
        return perplexities(model, subject.data.valid, subject.valid_rows, draws, progress=True).to_dict()
