"""The network and its mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imdm_dist.config.require import require

MODEL_SIZES: dict[str, tuple[int, int, int]] = {
    # name: (hidden_dim, n_blocks, n_heads), the sizes of public MDLM and SDTT checkpoints
    "tiny": (512, 8, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1536, 24, 16),
}


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What stands at a masked position (arXiv 2605.10518, Eq. 15 and Table 11)."""

    kind: Literal["single", "infinite", "finite"] = "single"
    """single: the mask token of MDM; infinite: plus an MLP of noise; finite: plus one of n_states rows."""
    law: Literal["uniform", "gaussian"] = "uniform"
    """Law of the noise of an infinite mask: uniform on (-1, 1) or standard normal, per dimension."""
    noise_dim: int = 768
    """Dimensions of the noise vector of one position (paper: 768 on LM1B, 2048 on OpenWebText)."""
    scale: float = 1.0
    """Factor on the noise."""
    output_bias: bool = False
    """Whether the output layer of the noise MLP has a bias (the authors' code has none)."""
    n_states: int = 6144
    """Mask states of a finite mask."""

    def __post_init__(self) -> None:
        require(self.noise_dim > 0, f"model.mask.noise_dim is {self.noise_dim}: set it to 1 or more")
        require(self.scale > 0, f"model.mask.scale is {self.scale}: set it above 0")
        require(self.n_states > 0, f"model.mask.n_states is {self.n_states}: set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The DiT backbone of MDLM and the kind of its mask."""

    size: Literal["tiny", "small", "medium", "large", "custom"] = "small"
    """A named size, or custom: then hidden_dim, n_blocks and n_heads must be given."""
    hidden_dim: int = 0
    """Width d of the residual stream; 0 takes it from size."""
    n_blocks: int = 0
    """Transformer blocks; 0 takes it from size."""
    n_heads: int = 0
    """Attention heads; 0 takes it from size."""
    cond_dim: int = 128
    """Width of the (constant) time embedding that feeds adaLN."""
    dropout: float = 0.1
    """Dropout on both residual branches while training."""
    attention_soft_cap: float = 0.0
    """Attention scores are squashed to (-cap, cap) by tanh; 0 is off (the authors' LM1B runs use 50)."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """The mask embedding."""

    def __post_init__(self) -> None:
        if self.size != "custom":
            for name, value in zip(("hidden_dim", "n_blocks", "n_heads"), MODEL_SIZES[self.size], strict=True):
                given = getattr(self, name)
                require(
                    given in (0, value),
                    f"model.{name}={given} does not go with model.size={self.size} ({value}): set model.size=custom",
                )
                object.__setattr__(self, name, value)
        for name in ("hidden_dim", "n_blocks", "n_heads", "cond_dim"):
            require(getattr(self, name) > 0, f"model.{name} is {getattr(self, name)}: set it to 1 or more")
        require(
            self.hidden_dim % self.n_heads == 0 and (self.hidden_dim // self.n_heads) % 2 == 0,
            f"model.hidden_dim={self.hidden_dim} must be an even multiple of model.n_heads={self.n_heads}",
        )
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}: set it in [0, 1)")
        require(self.attention_soft_cap >= 0, "model.attention_soft_cap is negative: set it to 0 (off) or above")
