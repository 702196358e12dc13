"""Philox4x32-10, the counter-based generator of Salmon et al. (SC 2011), in torch integer arithmetic.

The same bits on every device: 32-bit words live in int64, where a product of two words wraps
around as in unsigned 64-bit arithmetic, so its high and low halves are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt 128-bit counters with 64-bit keys.

    Args:
        counter: four int64 tensors of words in [0, 2**32), least significant first, broadcastable.
        key: two such tensors.

    Returns:
        Four int64 tensors of words, of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & WORD) ^ c1 ^ k0,
            product1 & WORD,
            ((product0 >> 32) & WORD) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0 = (k0 + _WEYL[0]) & WORD
        k1 = (k1 + _WEYL[1]) & WORD
    return tuple(torch.broadcast_tensors(c0, c1, c2, c3))
