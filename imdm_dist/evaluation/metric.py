"""The interface of a metric: one thing that an evaluation measures.

A metric is a subclass of `Metric` that overrides the methods it has an answer for. `evaluation.metrics` lists those
that run, by their names in `registry.METRICS` or as `module:Class`. The columns of a table are theirs.

Shape suffixes: B samples, L length, P reference rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imdm_dist.config.evaluation import EvaluationConfig
from imdm_dist.data import Dataset
from imdm_dist.evaluation.scorer import Scorer
from imdm_dist.model import Backbone

Figures = Mapping[str, Any]
"""Numbers by name; None where one is not defined. `x_se` is the standard error of `x` and is shown with it. Of models a
figure may also be a perplexity as `Perplexity.to_dict` gives it."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    head: str
    """What stands above it."""
    figure: str
    """Name of the figure in it."""


@dataclass(frozen=True)
class Subject:
    """What an evaluation has beside its models, for a metric to read."""

    settings: EvaluationConfig
    data: Dataset
    """Training and validation rows, and the tokenizer, if rows are text."""
    valid_rows: int
    """Validation rows to measure on."""
    scorer: Scorer | None
    """The evaluator, if there is one."""


@dataclass(frozen=True)
class Sampled:
    """Samples of a model at one step count, under one seed."""

    rows_BL: np.ndarray
    """Token ids, int64; no mask is among them."""
    model: Backbone
    """What drew them, in eval mode."""
    steps: int
    seed: int
    reference_PL: np.ndarray | None
    """Results of the coupling that the model learned, if there is one."""


class Metric:
    """One thing measured."""

    sample_columns: Sequence[Column] = ()
    """Columns of the table of samples, a row a model and step count."""
    model_columns: Sequence[Column] = ()
    """Columns of the table of models, a row a model."""
    notes: tuple[str, ...] = ()
    """Sentences under the table that has its columns."""
    baseline: str = ""
    """Of a metric that measures another language model beside those of the table: the name of its row there."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def of_samples(self, sampled: Sampled) -> Figures:
        """Figures of samples; tables show their means over the seeds."""
        return {}

    def of_model(self, model: Backbone) -> Figures | None:
        """Figures of a model itself; None if it has none."""
        return None

    def of_baseline(self) -> Figures | None:
        """Figures of the `baseline`, by the names of another metric's figures of models; None if it has none here."""
        return None

    def about(self) -> Mapping[str, Any]:
        """Fields of a `ResultRecord`: what its figures of samples depend on beside the settings that stand there."""
        return {}
