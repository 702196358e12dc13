"""What stands at a masked position: one token (MDM), infinitely many (IMDM) or finitely many.

A mask embedding gives an *offset* to the embedding E(m) of the mask token, for masked positions
alone. All offsets start at zero, so a model whose mask is replaced computes the same function as
before (arXiv 2605.10518, Sec. 4.2).

Shape suffixes: B batch, L length, M masked positions, D hidden width, K noise dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from imdm_dist import draws
from imdm_dist.config.model import MaskConfig
from imdm_dist.device import send


@dataclass(frozen=True)
class MaskedRows:
    """The masked positions of a batch, and the keys of their noise; all int64 [M], on one device."""

    flat_M: Tensor
    """Index into the flattened [B * L] batch."""
    seed_M: Tensor
    """Seed of the sequence."""
    position_M: Tensor
    """Position in the sequence."""
    redraw_M: Tensor
    """How the noise at this position was last redrawn; 0 is the noise a rollout starts from."""

    def to(self, device: torch.device) -> MaskedRows:
        """The same rows, of the host, on `device`, copied without waiting."""
        return MaskedRows(*(send(part, device) for part in vars(self).values()))


def masked_rows(masked_BL: Tensor, seed_B: Tensor, redraw_BL: Tensor | None = None) -> MaskedRows:
    """Keys of the positions where `masked_BL` (bool) holds. On a GPU this waits for the device: call it on the host."""
    length = masked_BL.shape[1]
    flat_M = masked_BL.flatten().nonzero().squeeze(1)
    redraw_M = torch.zeros_like(flat_M) if redraw_BL is None else redraw_BL.flatten()[flat_M]
    return MaskedRows(flat_M, seed_B[flat_M // length], flat_M % length, redraw_M)


class InfiniteMask(nn.Sequential):
    """E(m) + MLP(noise): a new mask at every draw (Eq. 15).

    Its keys, `0.weight`, `0.bias`, `2.weight` and optionally `2.bias`, are those of the authors' checkpoints.
    """

    def __init__(
        self, hidden_dim: int, noise_dim: int, law: Literal["uniform", "gaussian"], scale: float, output_bias: bool
    ) -> None:
        layers = nn.Linear(noise_dim, 4 * hidden_dim), nn.Linear(4 * hidden_dim, hidden_dim, bias=output_bias)
        super().__init__(layers[0], nn.GELU(), layers[1])
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.trunc_normal_(layers[0].weight, std=0.02)  # the authors'; a wider one learns rougher maps of the noise
        self.noise_dim, self.law, self.scale = noise_dim, law, scale

    def offset(self, rows: MaskedRows) -> Tensor:
        """Offsets to E(m), [M, D]."""
        noise_MK = draws.noise(rows.seed_M, rows.position_M, rows.redraw_M, self.noise_dim, self.law)
        return self(noise_MK.mul_(self.scale).to(next(self.parameters()).dtype))


class FiniteMask(nn.Module):
    """E(m) + one of n_states rows, chosen uniformly at every draw (Table 11)."""

    def __init__(self, hidden_dim: int, n_states: int) -> None:
        super().__init__()
        self.n_states = n_states
        self.states = nn.Parameter(torch.zeros(n_states, hidden_dim))

    def state(self, rows: MaskedRows) -> Tensor:
        """Which state each row has, int64 [M]."""
        return draws.integer(rows.seed_M, draws.Purpose.NOISE, rows.position_M, rows.redraw_M, self.n_states)

    def offset(self, rows: MaskedRows) -> Tensor:
        """Offsets to E(m), [M, D]."""
        return nn.functional.embedding(self.state(rows), self.states)


def build_mask(config: MaskConfig, hidden_dim: int) -> InfiniteMask | FiniteMask | None:
    """The mask embedding that `config` describes; None for the single mask of MDM."""
    if config.kind == "infinite":
        return InfiniteMask(hidden_dim, config.noise_dim, config.law, config.scale, config.output_bias)
    if config.kind == "finite":
        return FiniteMask(hidden_dim, config.n_states)
    return None
