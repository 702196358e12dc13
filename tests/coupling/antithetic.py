"""A source of draws of somebody's own, in a file of its own: every uniform is the counter's seen from the other end."""

from __future__ import annotations

from torch import Tensor

from imdm_dist import draws
from imdm_dist.diffusion.draw_source import CounterSource
from imdm_dist.draws import Purpose
from imdm_dist.model.vocabulary import Vocabulary


class AntitheticSource(CounterSource):
    """1 - u in place of every u."""

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        return 1 - super().reveal(seed_B, length)

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        return 1 - super().keep(seed_B, length, step_B)

    def token(
        self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
    ) -> Tensor:
        return vocabulary.invert_cdf(logits_RV, 1 - draws.uniform(seed_R, Purpose.TOKEN, position_R))
