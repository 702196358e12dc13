"""Where a rollout takes its randomness from: one small object, so that it can be replaced as a whole.

Shape suffixes: B batch, L length, R rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.draws import Purpose
from imdm_dist.model.vocabulary import Vocabulary

DRAW_PRECISION = "float64"
"""Precision of token draws: a float32 race cuts the tail off and flatters Gen. PPL (arXiv 2409.02908)."""

ROWS_PER_DRAW = 1024
"""Rows whose float64 probabilities exist at a time: 0.4 GB a copy with GPT-2's vocabulary."""


class DrawSource(Protocol):
    """All randomness of a rollout but the mask noise itself, which the model draws from the same seeds."""

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        """Uniforms that decide when each position is revealed, float64 [B, L]."""
        ...

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        """Uniforms that decide whether noise is kept on the way to a step, float64 [B, L]."""
        ...

    def token(self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
        """Tokens drawn from softmax(logits_RV), int64 [R]; the mask from rows that are no distribution."""
        ...


class CounterSource:
    """Independent draws, each a function of (seed, purpose, position, step)."""

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        """See `DrawSource`."""
        return draws.uniform(seed_B[:, None], Purpose.REVEAL, torch.arange(length))

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        """See `DrawSource`."""
        return draws.uniform(seed_B[:, None], Purpose.KEEP, torch.arange(length), step_B[:, None])

    def token(self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
        """See `DrawSource`. Inverts the distribution function in float64: one uniform for a token."""
        return vocabulary.invert_cdf(logits_RV, draws.uniform(seed_R, Purpose.TOKEN, position_R))


class Head(Protocol):
    """What draws need of a model."""

    vocabulary: Vocabulary

    def head(self, h_RD: Tensor) -> Tensor: ...


def draw_tokens(source: DrawSource, model: Head, h_RD: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """Tokens of R rows from their hidden states, int64 [R]; float64 probabilities exist for some rows at a time.

    A row that is no distribution gives the mask (see `Vocabulary.invert_cdf`): the device is not waited for here, and
    whoever has the tokens on the host looks for it.
    """
    parts = zip(*(part.split(ROWS_PER_DRAW) for part in (h_RD, seed_R, position_R)), strict=True)
    return torch.cat([source.token(model.vocabulary, model.head(h), seed, position) for h, seed, position in parts])
