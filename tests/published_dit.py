"""The architecture of the published MDLM, SDTT and IMDM checkpoints, written from its description; for tests alone.

It shares no code with `imdm_dist`. Parameters have the published names and order, so its `state_dict` is the content of
a published file and its `parameters()` are the order of an unnamed EMA list. The noise of an infinite mask is given.

B batch, L length, D width, H heads, C conditioning width, K noise dimensions, V vocabulary (mask included).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FREQUENCIES = 256


def centred(x: Tensor) -> Tensor:
    """To mean 0 and variance 1 along the last axis."""
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


class Scale(nn.Module):
    """A norm's weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))


class Rotary(nn.Module):
    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.pow(10000.0, -torch.arange(0, head_dim, 2).float() / head_dim))

    def turn(self, x_BHLE: Tensor) -> Tensor:
        """Rotate the plane of element i and element i + E/2 by position times frequency i."""
        plane = torch.complex(*x_BHLE.chunk(2, dim=-1))
        angle = torch.arange(x_BHLE.shape[2])[:, None] * self.inv_freq
        turned = plane * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((turned.real, turned.imag), dim=-1)


class Sigma(nn.Module):
    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma_B: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        frequency = torch.pow(10000.0, -torch.arange(half).float() / half)
        angle = sigma_B[:, None] * frequency
        cond: Tensor = self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1))
        return cond


class Vocabulary(nn.Module):
    def __init__(self, vocab_size: int, dim: int, noise_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, dim))
        if noise_dim:
            layers = nn.Linear(noise_dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
            self.imdm_mlp = nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.norm1 = Scale(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = Scale(dim)
        self.mlp = nn.ModuleList([nn.Linear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])
        self.adaLN_modulation = nn.Linear(cond_dim, 6 * dim)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary, heads: int, cap: float) -> Tensor:
        a, b, gate, a2, b2, gate2 = (part.unsqueeze(1) for part in self.adaLN_modulation(c).chunk(6, dim=1))
        y = centred(x) * self.norm1.weight * (1 + b) + a
        batch, length, dim = x.shape
        three_heads = self.attn_qkv(y).view(batch, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        q, k, v = rotary.turn(three_heads[0]), rotary.turn(three_heads[1]), three_heads[2]
        score = torch.einsum("bhle,bhme->bhlm", q, k) * (dim // heads) ** -0.5
        if cap > 0:
            score = cap * torch.tanh(score / cap)
        mixed = torch.einsum("bhlm,bhme->blhe", torch.softmax(score, -1), v).reshape(batch, length, dim)
        x = x + gate * self.attn_out(mixed)
        y = centred(x) * self.norm2.weight * (1 + b2) + a2
        out: Tensor = x + gate2 * self.mlp[2](tanh_gelu(self.mlp[0](y)))
        return out


class Output(nn.Module):
    def __init__(self, vocab_size: int, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.norm_final = Scale(dim)
        self.linear = nn.Linear(dim, vocab_size)
        self.adaLN_modulation = nn.Linear(cond_dim, 2 * dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b = (part.unsqueeze(1) for part in self.adaLN_modulation(c).chunk(2, dim=1))
        logits: Tensor = self.linear(centred(x) * self.norm_final.weight * (1 + b) + a)
        return logits


class PublishedDiT(nn.Module):
    """A model with random weights everywhere, gates and head included."""

    def __init__(
        self,
        vocab_size: int,
        dim: int = 32,
        blocks: int = 2,
        heads: int = 2,
        noise_dim: int = 0,
        cap: float = 0.0,
        seed: int = 0,
        cond_dim: int = 128,
    ) -> None:
        super().__init__()
        self.heads, self.cap = heads, cap
        self.vocab_embed = Vocabulary(vocab_size, dim, noise_dim)
        self.sigma_map = Sigma(cond_dim)
        self.rotary_emb = Rotary(dim // heads)
        self.blocks = nn.ModuleList(Block(dim, cond_dim) for _ in range(blocks))
        self.output_layer = Output(vocab_size, dim, cond_dim)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    @torch.no_grad()
    def forward(self, x_BL: Tensor, noise_BLK: Tensor | None = None, masked_BL: Tensor | None = None) -> Tensor:
        """Logits [B, L, V] of models without time: the noise level is 0 for all."""
        h = self.vocab_embed.embedding[x_BL]
        if noise_BLK is not None and masked_BL is not None:
            h = h + masked_BL[..., None] * self.vocab_embed.imdm_mlp(noise_BLK)
        c = nn.functional.silu(self.sigma_map(torch.zeros(len(x_BL))))
        for block in self.blocks:
            h = block(h, c, self.rotary_emb, self.heads, self.cap)
        logits: Tensor = self.output_layer(h, c)
        return logits
