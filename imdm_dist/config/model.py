"""What stands at masked positions, and what every family of backbones has; a family's own settings are beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from imdm_dist.config.setting import require
from imdm_dist.registry import MASKS, NOISE_LAWS


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What stands at a masked position (arXiv 2605.10518, Eq. 15 and Table 11)."""

    kind: str = "single"
    """single: the mask token of MDM; infinite: plus an MLP of noise; finite: plus one of n_states rows."""
    law: str = "uniform"
    """Law of the noise of an infinite mask: uniform on (-1, 1) or gaussian (standard normal), per dimension."""
    noise_dim: int = 768
    """Dimensions of the noise vector of one position (paper: 768 on LM1B, 2048 on OpenWebText)."""
    scale: float = 1.0
    """Factor on the noise."""
    output_bias: bool = False
    """Whether the output layer of the noise MLP has a bias (the authors' code has none)."""
    n_states: int = 6144
    """Mask states of a finite mask."""

    def __post_init__(self) -> None:
        MASKS.place(self.kind)
        NOISE_LAWS.place(self.law)
        require(self.noise_dim > 0, f"model.mask.noise_dim is {self.noise_dim}: set it to 1 or more")
        require(self.scale > 0, f"model.mask.scale is {self.scale}: set it above 0")
        require(self.n_states > 0, f"model.mask.n_states is {self.n_states}: set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the settings of every family of backbones have."""

    family: str
    """Family of backbones, or module:Class, the place of your own; its settings are those of its class."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """The mask embedding."""

    may_differ = frozenset({"mask"})
    """Settings in which a model may differ from one whose weights it starts from."""
    divided_by = ""
    """The setting that engine.tensor_parallel must divide, such as the number of heads; empty: no division at all."""

    def unlike(self, other: ModelConfig) -> dict[str, tuple[Any, Any]]:
        """Settings, here and there, for which the same weights would not be the same function."""
        if self.family != other.family:
            return {"family": (self.family, other.family)}
        names = [one.name for one in fields(self) if one.name not in self.may_differ]
        found = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: (here, there) for name, (here, there) in found.items() if here != there}

    @property
    def divisible(self) -> int:
        """What engine.tensor_parallel must divide."""
        return int(getattr(self, self.divided_by)) if self.divided_by else 1
