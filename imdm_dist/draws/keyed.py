"""Random values keyed by (64-bit seed, purpose, position, redraw, dimension).

No draw depends on another one having been made, so results do not depend on batch size, shard
count, world size or device. A seed is an int64 whose 64 bits are the key of Philox; the counter is
(dimension block, position, redraw, purpose).

Shape suffixes: R rows, K dimensions of one vector.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from imdm_dist.draws.philox import WORD, philox4x32
from imdm_dist.registry import NOISE_LAWS

Index = Tensor | int


class Purpose(IntEnum):
    """What a draw is for: draws of two purposes are independent under the same seed."""

    NOISE = 1
    """Mask noise of a position."""
    KEEP = 2
    """Whether a position that stays masked keeps its noise (Eq. 13)."""
    REVEAL = 3
    """The sampling step at which a position is revealed."""
    TOKEN = 4
    """The token a position is revealed as."""
    TIME = 5
    """Diffusion time of an example."""
    MASK = 6
    """Whether a position of an example is masked."""
    ORDER = 7
    """Order of the data within an epoch."""
    EXAMPLE = 8
    """Child seed of a training example."""
    PAIR = 9
    """Child seed of a coupling pair."""
    SAMPLE = 10
    """Child seed of an evaluation sample."""
    TEACHER = 11
    """Child seed of the teacher's rollout in SDTT."""
    VALID = 12
    """Child seed of a validation example."""
    TEST = 13
    """Child seed of a noise draw in an evaluation over noises."""


def _as_index(value: Index, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.int64, device=like.device)  # filled there: a copy would wait for a GPU


def _key(seed: Tensor) -> tuple[Tensor, Tensor]:
    return seed & WORD, (seed >> 32) & WORD


def derive_seed(seed: Index, purpose: Purpose, index: Index) -> Tensor:
    """Child seeds of `seed`, one for each `index`.

    Args:
        seed: int64 scalar or tensor.
        purpose: which family of children.
        index: int64 scalar or tensor, any 64-bit value.

    Returns:
        int64 tensor of the broadcast shape, all 64 bits used.
    """
    anchor = next((value for value in (seed, index) if isinstance(value, Tensor)), torch.zeros((), dtype=torch.int64))
    seed, index = _as_index(seed, anchor), _as_index(index, anchor)
    zero = torch.zeros_like(index)
    w0, w1, _, _ = philox4x32((index & WORD, (index >> 32) & WORD, zero, zero + int(purpose)), _key(seed))
    return w0 | (w1 << 32)


def _words(seed: Tensor, purpose: Purpose, position: Index, redraw: Index, block: Index = 0) -> tuple[Tensor, ...]:
    position, redraw, block = (_as_index(value, seed) for value in (position, redraw, block))
    return philox4x32((block, position, redraw, torch.full_like(block, int(purpose))), _key(seed))


def uniform(seed: Tensor, purpose: Purpose, position: Index, redraw: Index = 0) -> Tensor:
    """Uniform draws on the open interval (0, 1), on the 2**52 midpoints of a regular grid.

    Args:
        seed, position, redraw: int64, broadcastable; position and redraw in [0, 2**32).

    Returns:
        float64 of the broadcast shape; neither 0 nor 1, and symmetric about 1/2.
    """
    high, low, _, _ = _words(seed, purpose, position, redraw)
    return (((high >> 6) << 26) + (low >> 6)).to(torch.float64).add_(0.5).mul_(2.0**-52)


def integer(seed: Tensor, purpose: Purpose, position: Index, redraw: Index, bound: int) -> Tensor:
    """Uniform integers in [0, bound), int64; the bias of 2**-32 * bound is below what can be seen."""
    word, _, _, _ = _words(seed, purpose, position, redraw)
    return (word * bound) >> 32


def noise(seed_R: Tensor, position_R: Tensor, redraw_R: Tensor, dim: int, law: str) -> Tensor:
    """Mask noise of R positions (arXiv 2605.10518, Eq. 15).

    Args:
        seed_R, position_R, redraw_R: int64 [R].
        dim: dimensions K of one noise vector.
        law: a name of `imdm_dist.registry.NOISE_LAWS`.

    Returns:
        float32 [R, K].
    """
    drawn: Tensor = NOISE_LAWS.get(law)(seed_R, position_R, redraw_R, dim)
    return drawn


def noise_words(seed_R: Tensor, position_R: Tensor, redraw_R: Tensor, dim: int) -> Tensor:
    """What laws of the noise are made of: `dim` or more words of 32 random bits a position, int64 [R, ...]."""
    block_K = torch.arange((dim + 3) // 4, device=seed_R.device)
    words = _words(seed_R[:, None], Purpose.NOISE, position_R[:, None], redraw_R[:, None], block_K)
    return torch.stack(words, dim=-1).flatten(1)
