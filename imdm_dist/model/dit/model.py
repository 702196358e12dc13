"""The DiT of MDLM, as a plain torch module: names, shapes and numerics of the public checkpoints.

It loads in a notebook without a process group. How it is split over ranks is none of its business.
`hidden` runs the blocks, `head` maps chosen rows to the vocabulary; training and sampling call the
two apart, so that logits exist for the rows that matter alone.

Sources: arXiv 2406.07524 (MDLM), arXiv 2212.09748 (DiT); mask embedding arXiv 2605.10518, Eq. 15.
Shape suffixes: B batch, L length, D hidden width, H heads, E head width, C conditioning width, R rows,
V vocabulary (mask included).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdm_dist.model.backbone import Backbone
from imdm_dist.model.dit.cuts import CUTS
from imdm_dist.model.dit.public_checkpoints import MASK, PUBLISHED
from imdm_dist.model.dit.rotary import Rotary, rotate
from imdm_dist.model.dit.settings import DitConfig
from imdm_dist.model.layers import LayerNorm, attention
from imdm_dist.model.mask_embedding import MaskedRows


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


class TimestepEmbedder(nn.Module):
    """MDLM's embedding of the noise level. Its models ignore time: the level is always 0."""

    frequencies = 256

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.frequencies, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self) -> Tensor:
        """The conditioning vector, [1, C]."""
        weight = next(self.parameters())
        half = self.frequencies // 2
        # cos 0 and sin 0, made where the weights are: a copy from the host would wait for a GPU.
        angle_zero = torch.cat((weight.new_ones(1, half), weight.new_zeros(1, half)), dim=-1)
        return F.silu(self.mlp(angle_zero))


class EmbeddingLayer(nn.Module):
    """The table of token embeddings; the mask embedding stands beside it."""

    def __init__(self, config: DitConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.hidden_dim))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))


class Block(nn.Module):
    """One transformer block with adaLN modulation and gates that start at zero."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.n_heads, self.dropout, self.soft_cap = config.n_heads, config.dropout, config.attention_soft_cap
        self.norm1 = LayerNorm(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = nn.Linear(config.cond_dim, 6 * dim)
        nn.init.zeros_(self.adaLN_modulation.weight)
        nn.init.zeros_(self.adaLN_modulation.bias)

    def forward(self, x_BLD: Tensor, cond_1C: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
        parts = self.adaLN_modulation(cond_1C)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        h_BLD = modulate(self.norm1(x_BLD), shift_attn, scale_attn).to(self._dtype)
        branch_BLD = self.attn_out(self._attend(self.attn_qkv(h_BLD), cos_LE, sin_LE))
        x_BLD = x_BLD + gate_attn * F.dropout(branch_BLD, self.dropout, self.training)
        h_BLD = modulate(self.norm2(x_BLD), shift_mlp, scale_mlp).to(self._dtype)
        return x_BLD + gate_mlp * F.dropout(self.mlp(h_BLD), self.dropout, self.training)

    @property
    def _dtype(self) -> torch.dtype:
        return self.attn_qkv.weight.dtype

    def _attend(self, qkv_BLK: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
        qkv = qkv_BLK.unflatten(-1, (3, -1, cos_LE.shape[-1]))  # rows of the weight are (three, head, width)
        q_BLHE, k_BLHE, v_BLHE = qkv.unbind(dim=2)
        q_BHLE = rotate(q_BLHE, cos_LE, sin_LE).transpose(1, 2)
        k_BHLE = rotate(k_BLHE, cos_LE, sin_LE).transpose(1, 2)
        v_BHLE = v_BLHE.transpose(1, 2)
        out_BHLE = attention(q_BHLE, k_BHLE, v_BHLE, self.soft_cap)
        return out_BHLE.transpose(1, 2).flatten(2)


class FinalLayer(nn.Module):
    """Modulated norm and the head, whose weight and bias start at zero: untrained logits are uniform."""

    def __init__(self, config: DitConfig, vocab_size: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm(config.hidden_dim)
        self.linear = nn.Linear(config.hidden_dim, vocab_size)
        self.adaLN_modulation = nn.Linear(config.cond_dim, 2 * config.hidden_dim)
        for layer in (self.linear, self.adaLN_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h_RD: Tensor, cond_1C: Tensor) -> Tensor:
        shift_1D, scale_1D = self.adaLN_modulation(cond_1C).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(h_RD), shift_1D, scale_1D).to(self.linear.weight.dtype))


class DiT(Backbone):
    """The family `dit`: see `Backbone` for what it is given."""

    Config = DitConfig
    cuts = CUTS
    mask_name = MASK
    public = PUBLISHED

    def __init__(self, config: DitConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__(config, vocab_size, mask_id)
        self.vocab_embed = EmbeddingLayer(config, vocab_size)
        self.make_mask(config.hidden_dim)
        self.sigma_map = TimestepEmbedder(config.cond_dim)
        self.rotary_emb = Rotary(config.hidden_dim // config.n_heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.output_layer = FinalLayer(config, vocab_size)

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        """See `Backbone`."""
        h_BLD = self.with_mask(self.vocabulary.embed(x_BL, self.vocab_embed.embedding), masked)
        cond_1C = self.sigma_map()
        cos_LE, sin_LE = self.rotary_emb(x_BL.shape[1])
        for block in self.blocks:
            h_BLD = block(h_BLD, cond_1C, cos_LE, sin_LE)
        return h_BLD

    def head(self, h_RD: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.vocabulary.rule_out(self.output_layer(h_RD, self.sigma_map()))
