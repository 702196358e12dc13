"""What a coupling is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.setting import NoisePolicy, Weights, require, setting
from imdm_dist.registry import SOURCES


@dataclass(frozen=True, kw_only=True)
class CouplingConfig:
    """Pairs (start, noise seed, result) made by rollouts of a teacher."""

    kind: Literal["perturbed", "plain"] = "perturbed"
    """perturbed: start from real text masked at a rate t ~ U(0, 1); plain: from masks alone."""
    pairs: int = 6400
    """Pairs in all (paper: 100,000)."""
    shards: int = 64
    """Files they are split over; a shard is the unit of work of a worker."""
    steps: int = 1024
    """Sampling steps N of a rollout."""
    noise_policy: NoisePolicy = "posterior"
    """Mask noise between the steps of a rollout (the authors' code: posterior; fixed ties text to its noise)."""
    batch: int = 64
    """Sequences rolled out together; part of what a shard's bytes depend on."""
    seed: int = 1
    """Coupling seed; a pair's own seed is derived from it and the pair's index."""
    weights: Weights = "ema"
    """Which weights of the teacher roll out."""
    source: str = setting("counter", later=True)
    """Source of a rollout's draws: counter (independent), or one of your own as module:Class."""

    def __post_init__(self) -> None:
        SOURCES.place(self.source)
        for name in ("pairs", "shards", "steps", "batch"):
            require(getattr(self, name) >= 1, f"coupling.{name} is {getattr(self, name)}: set it to 1 or more")
        require(self.pairs >= self.shards, f"coupling.pairs={self.pairs} is fewer than coupling.shards={self.shards}")
        require(0 <= self.seed < 2**63, f"coupling.seed is {self.seed}: set it in [0, 2**63)")
