"""A metric of somebody's own, in a file of its own: the longest run of one token in a sample."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled
from imdm_dist.model import Backbone


class LongestRun(Metric):
    """Mean over samples, with its standard error; and of each model, its parameters."""

    sample_columns = (Column("longest run", "longest_run"),)
    model_columns = (Column("parameters", "parameters"),)
    notes = ("Runs are of one token.",)

    def of_samples(self, sampled: Sampled) -> Figures:
        runs = [max(len(list(same)) for _, same in groupby(row)) for row in sampled.rows_BL.tolist()]
        return {"longest_run": float(np.mean(runs)), "longest_run_se": float(np.std(runs) / len(runs) ** 0.5)}

    def of_model(self, model: Backbone) -> Figures:
        return {"parameters": sum(weight.numel() for weight in model.parameters())}
