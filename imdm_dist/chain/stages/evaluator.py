"""Stage `evaluator`: trains a small causal language model that scores samples, for machines without GPT-2-large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imdm_dist.chain.problems import largest_vocabulary
from imdm_dist.chain.stage import Stage
from imdm_dist.data import prepare
from imdm_dist.data.row_format import RowFormat
from imdm_dist.device import default_device

WEIGHT_BYTES = 4
"""Bytes of a parameter."""


@dataclass(frozen=True, kw_only=True)
class Evaluator(Stage):
    """Training of a causal language model."""

    makes = "evaluator"
    result = "model.safetensors"
    shaping = ("evaluator", "engine.precision")

    def execute(self, folders: Mapping[str, Path], stages: Mapping[str, Stage], workers: int | None) -> None:
        from imdm_dist.evaluation.causal_lm import train_evaluator  # seconds to import

        config, data = self.config, prepare(self.config.data)
        autocast = config.engine.precision != "fp32"
        train_evaluator(config.evaluator, data.train, data.valid, folders[self.name], default_device(), autocast)

    def written_bytes(self, rows: RowFormat) -> float:
        model, width = self.config.evaluator, self.config.evaluator.hidden_dim
        return float(WEIGHT_BYTES * (12 * model.n_blocks * width**2 + largest_vocabulary(rows) * width))
