"""Settings of the DiT of MDLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.model import ModelConfig
from imdm_dist.config.setting import require, setting

MODEL_SIZES: dict[str, tuple[int, int, int]] = {
    # name: (hidden_dim, n_blocks, n_heads), the sizes of public MDLM and SDTT checkpoints
    "tiny": (512, 8, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1536, 24, 16),
}


@dataclass(frozen=True, kw_only=True)
class DitConfig(ModelConfig):
    """The DiT backbone of MDLM and the kind of its mask."""

    family: str = setting("dit", later=True)
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

    may_differ = frozenset({"mask", "size", "dropout"})
    divided_by = "n_heads"

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
