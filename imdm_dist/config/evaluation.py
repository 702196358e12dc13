"""Samples, what is measured on them, and the model that scores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.setting import NoisePolicy, Weights, require, setting
from imdm_dist.registry import METRICS, SOURCES


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Samples drawn from a model, and what is measured on them."""

    samples: int = 256
    """Sequences per step count (paper: 1024)."""
    steps: tuple[int, ...] = (2, 4, 8, 16)
    """Step counts N."""
    noise_policy: NoisePolicy = "posterior"
    """Mask noise between two sampling steps."""
    weights: Weights = "ema"
    """Which weights are evaluated."""
    seeds: tuple[int, ...] = (42,)
    """Sampling seeds; figures are given per seed and as their mean."""
    batch: int = 64
    """Sequences sampled together."""
    valid_draws: int = 4
    """Draws of time, masks and noise for each of the train.valid_rows rows behind validation PPL."""
    scored: Literal["ids", "text"] = "ids"
    """Gen. PPL of sampled ids (SDTT) or of their text (MDLM, DUO, paper); where an evaluator takes but one, of that."""
    end_tokens: Literal["all", "first"] = "all"
    """End tokens that Gen. PPL counts: all (SDTT), or none from the second of a sample on (MDLM, DUO, paper)."""
    metrics: tuple[str, ...] = setting(
        ("gen_ppl", "entropy", "distinct", "copied", "valid_ppl", "evaluator"), later=True
    )
    """What is measured, in the order of a table's columns: these, trigram (its validation PPL), or metrics of your own
    as module:Class."""
    source: str = setting("counter", later=True)
    """Source of the samples' draws: counter (independent), or one of your own as module:Class."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            METRICS.place(metric)
        SOURCES.place(self.source)
        require(bool(self.metrics), "evaluation.metrics is empty: give one or more")
        require(self.samples >= 1, f"evaluation.samples is {self.samples}: set it to 1 or more")
        for name in ("batch", "valid_draws"):
            require(getattr(self, name) >= 1, f"evaluation.{name} is {getattr(self, name)}: set it to 1 or more")
        require(bool(self.steps) and min(self.steps, default=0) >= 1, "evaluation.steps must be numbers of 1 or more")
        require(bool(self.seeds), "evaluation.seeds is empty: give one or more")


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """The small causal language model that scores samples where no GPT-2-large is to be had."""

    hidden_dim: int = 256
    """Width."""
    n_blocks: int = 4
    """Transformer blocks."""
    n_heads: int = 4
    """Attention heads."""
    steps: int = 2000
    """Optimizer steps."""
    batch: int = 64
    """Rows per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    dropout: float = 0.1
    """Dropout while training."""
    seed: int = 0
    """Seed of its initial weights, data order and dropout."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "n_blocks", "n_heads", "steps", "batch"):
            require(getattr(self, name) >= 1, f"evaluator.{name} is {getattr(self, name)}: set it to 1 or more")
        require(
            self.hidden_dim % self.n_heads == 0,
            f"evaluator.hidden_dim={self.hidden_dim} must be a multiple of evaluator.n_heads={self.n_heads}",
        )
