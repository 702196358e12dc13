"""Parameter counts of a model, and of one tensor-parallel rank.

Counted on a model of the meta device, which has shapes and no memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from imdm_dist.config.model import ModelConfig
from imdm_dist.model import sketch


@dataclass(frozen=True)
class Parameters:
    """Counts of parameters."""

    backbone: int
    """All but the mask embedding, whole."""
    noise_mlp: int
    """The mask embedding (the noise MLP of an infinite mask, the rows of a finite one), whole."""
    rank: int
    """What a tensor-parallel rank holds of both, padding included."""
    rank_largest: int
    """The largest tensor of the rank."""

    @property
    def total(self) -> int:
        """Backbone and mask embedding, whole."""
        return self.backbone + self.noise_mlp


@functools.cache
def count_parameters(model: ModelConfig, vocab_size: int, tensor_parallel: int = 1) -> Parameters:
    """Count the parameters of a model, and those of one of `tensor_parallel` ranks."""
    backbone = sketch(model, vocab_size)
    whole = {True: 0, False: 0}
    rank = largest = 0
    for name, parameter in backbone.named_parameters():
        whole[backbone.is_of_mask(name)] += parameter.numel()
        cut = backbone.cut_of(name)
        size = parameter.shape[cut.dim] if cut else 1
        ours = parameter.numel() // size * (-(-size // tensor_parallel) if cut else 1)
        rank += ours
        largest = max(largest, ours)
    return Parameters(whole[False], whole[True], rank, largest)
