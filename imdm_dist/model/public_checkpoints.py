"""What a family says of the checkpoints that others publish of it, for imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class Described(Protocol):
    """What a checkpoint says of itself beside its tensors."""

    def setting(self, *names: str) -> Any:
        """The first of these settings, by dotted name, that it has; else None."""
        ...


@dataclass(frozen=True)
class Deduced:
    """The model section of a checkpoint's configuration."""

    model: dict[str, Any]
    """Settings of the section model, as `imdm_dist.config` reads them."""
    vocab_size: int
    """V, the mask included."""
    origins: dict[str, str]
    """Where the settings come from that shapes do not tell."""


@dataclass(frozen=True)
class PublicFormat:
    """How published files have a family."""

    models: str
    """Whose they are, in words."""
    ignored: Mapping[str, str]
    """Tensors that they have and that are no parameters, and why they are not needed."""
    deduce: Callable[[Described, Mapping[str, Tensor], Mapping[str, Any]], Deduced]
    """The settings of the model in a file, from what it says of itself, its tensors by own name, and the settings of
    the section model that the user gives; ValueError where they contradict each other or do not suffice."""
