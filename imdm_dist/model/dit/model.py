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

from imdm_dist.config.model import ModelConfig
from imdm_dist.model.backbone import Backbone
from imdm_dist.model.mask_embedding import MaskedRows, build_mask


class LayerNorm(nn.Module):
    """LayerNorm without bias, normalised in float32 under any precision."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.normalise(x.float()) * self.weight

    def normalise(self, x: Tensor) -> Tensor:
        """To mean 0 and variance 1 along the last axis."""
        return F.layer_norm(x, x.shape[-1:])


class Rotary(nn.Module):
    """Angles of rotary position embedding, base 10,000, halves rotated."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.register_buffer("inv_freq", self._frequencies(torch.device("cpu")))

    def _frequencies(self, device: torch.device) -> Tensor:
        exponent = torch.arange(0, self.head_dim, 2, device=device, dtype=torch.float32) / self.head_dim
        return 1.0 / 10_000**exponent

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine, float32 [L, E]."""
        # The buffer is part of the public format, but an engine may cast it to bf16, where angles are useless.
        angle = torch.outer(
            torch.arange(length, device=self.inv_freq.device, dtype=torch.float32),
            self._frequencies(self.inv_freq.device),
        )
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


def rotate(x_BLHE: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    """Apply rotary position embedding."""
    first, second = x_BLHE.chunk(2, dim=-1)
    cos, sin = cos_LE[:, None].to(x_BLHE.dtype), sin_LE[:, None].to(x_BLHE.dtype)
    return x_BLHE * cos + torch.cat((-second, first), dim=-1) * sin


def plain_attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor) -> Tensor:
    """Attention of every position to every other, by plain products."""
    score = q_BHLE @ k_BHLE.transpose(2, 3) / math.sqrt(q_BHLE.shape[-1])
    return score.softmax(dim=-1).to(v_BHLE.dtype) @ v_BHLE


def capped_attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, soft_cap: float) -> Tensor:
    """Attention with scores squashed to (-soft_cap, soft_cap), which are float32 under any precision.

    Here a fused kernel would go: `benchmarks/gpu.py` measures torch's flex_attention beside it.
    """
    with torch.autocast(q_BHLE.device.type, enabled=False):
        q_BHLE, k_BHLE = full_precision(q_BHLE), full_precision(k_BHLE)
        score = q_BHLE @ k_BHLE.transpose(2, 3) / math.sqrt(q_BHLE.shape[-1])
        weight = (soft_cap * torch.tanh(score / soft_cap)).softmax(dim=-1)
        return weight.to(v_BHLE.dtype) @ v_BHLE


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
    """Token embeddings, plus the mask embedding's offset at masked positions."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.hidden_dim))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))
        self.imdm_mlp = build_mask(config.mask, config.hidden_dim)  # the name public IMDM checkpoints use

    def lookup(self, x_BL: Tensor) -> Tensor:
        """Rows of the embedding table."""
        return F.embedding(x_BL, self.embedding)

    def forward(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        # The residual stream begins here; blocks add to it in its own precision, whatever that of their products.
        h_BLD = full_precision(self.lookup(x_BL))
        if self.imdm_mlp is None:
            return h_BLD
        assert masked is not None, "a stochastic mask needs the keys of its noise"
        offset_MD = self.imdm_mlp.offset(masked).to(h_BLD.dtype)
        return h_BLD.flatten(0, 1).index_add(0, masked.flat_M, offset_MD).view_as(h_BLD)


class Block(nn.Module):
    """One transformer block with adaLN modulation and gates that start at zero."""

    def __init__(self, config: ModelConfig) -> None:
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
        if self.soft_cap:
            out_BHLE = capped_attention(q_BHLE, k_BHLE, v_BHLE, self.soft_cap)
        elif q_BHLE.device.type == "cpu" and q_BHLE.dtype == torch.bfloat16:
            out_BHLE = plain_attention(q_BHLE, k_BHLE, v_BHLE)  # the CPU's fused kernel takes twice as long in bf16
        else:
            out_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE)
        return out_BHLE.transpose(1, 2).flatten(2)


class FinalLayer(nn.Module):
    """Modulated norm and the head, whose weight and bias start at zero: untrained logits are uniform."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
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

    def __init__(self, config: ModelConfig, vocab_size: int, mask_id: int) -> None:
        super().__init__(config, vocab_size, mask_id)
        self.vocab_embed = EmbeddingLayer(config, vocab_size)
        self.sigma_map = TimestepEmbedder(config.cond_dim)
        self.rotary_emb = Rotary(config.hidden_dim // config.n_heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.output_layer = FinalLayer(config, vocab_size)

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        """See `Backbone`."""
        h_BLD = self.vocab_embed(x_BL, masked)
        cond_1C = self.sigma_map()
        cos_LE, sin_LE = self.rotary_emb(x_BL.shape[1])
        for block in self.blocks:
            h_BLD = block(h_BLD, cond_1C, cos_LE, sin_LE)
        return h_BLD

    def head(self, h_RD: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.vocabulary.rule_out(self.output_layer(h_RD, self.sigma_map()))
