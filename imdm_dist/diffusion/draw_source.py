"""Sources of a rollout's randomness: `coupling.source` and `evaluation.source` name one (`registry.SOURCES`).

A source is a class that is made with no arguments. Its answers must be functions of what they are told and of nothing
else: then a rollout is a function of its seeds, and any worker makes the same bytes.

Shape suffixes: B batch, L length, R rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.draws import Purpose
from imdm_dist.model.mask_embedding import MaskedRows
from imdm_dist.model.vocabulary import Vocabulary

DRAW_PRECISION = "float64"
"""Precision of token draws: a float32 race cuts the tail off and flatters Gen. PPL (arXiv 2409.02908)."""

ROWS_PER_DRAW = 1024
"""Rows whose float64 probabilities exist at a time: 0.4 GB a copy with GPT-2's vocabulary."""


@runtime_checkable
class DrawSource(Protocol):
    """All randomness of a rollout but the mask noise itself, which the model draws from the same seeds.

    The noise that the model saw at a row is `draws.noise(seed_R, position_R, redraw_R, dim, law)` with the `dim` and
    `law` of its mask; noise of fewer dimensions is the beginning of noise of more. So `token` can draw a token from the
    very noise that decided its distribution, or from uniforms of any purpose and dimension that a student can be fed.
    """

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        """Uniforms that decide when each position is revealed, float64 [B, L]."""
        ...

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        """Uniforms that decide whether noise is kept on the way to a step, float64 [B, L]."""
        ...

    def token(
        self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
    ) -> Tensor:
        """Tokens drawn from softmax(logits_RV), int64 [R]; the mask from rows that are no distribution.

        Args:
            logits_RV: float32, on the model's device, as the other tensors.
            seed_R, position_R: sequence and place of each row, int64.
            redraw_R: index of the mask noise that the model saw there, int64.
        """
        ...


class CounterSource:
    """Independent draws, each a function of (seed, purpose, position, step)."""

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        """See `DrawSource`."""
        return draws.uniform(seed_B[:, None], Purpose.REVEAL, torch.arange(length))

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        """See `DrawSource`."""
        return draws.uniform(seed_B[:, None], Purpose.KEEP, torch.arange(length), step_B[:, None])

    def token(
        self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
    ) -> Tensor:
        """See `DrawSource`. Inverts the distribution function in float64: one uniform for a token."""
        return vocabulary.invert_cdf(logits_RV, draws.uniform(seed_R, Purpose.TOKEN, position_R))


class Denoiser(Protocol):
    """What a rollout needs of a model."""

    name: str
    mask_id: int
    vocabulary: Vocabulary

    @property
    def device(self) -> torch.device: ...

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor: ...

    def head(self, h_RD: Tensor) -> Tensor: ...


def draw_tokens(
    source: DrawSource, model: Denoiser, h_RD: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
) -> Tensor:
    """Tokens of R rows from their hidden states, int64 [R]; float64 probabilities exist for some rows at a time.

    A row that is no distribution gives the mask (see `Vocabulary.invert_cdf`): the device is not waited for here, and
    whoever has the tokens on the host looks for it.
    """
    parts = zip(*(part.split(ROWS_PER_DRAW) for part in (h_RD, seed_R, position_R, redraw_R)), strict=True)
    return torch.cat([source.token(model.vocabulary, model.head(h_RD), *index) for h_RD, *index in parts])
