"""Which tensor of a file is which parameter: prefixes of trainers, wrappers and compilers come off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from imdm_dist.model.public_checkpoints import PublicFormat

_WRAPPERS = ("_orig_mod",)
_OWNERS = ("backbone", "mdlm", "module")
_SHOWN = 4


def own_name(name: str) -> str:
    """Name of a parameter without the prefixes of torch.compile, Lightning modules and hub classes."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _OWNERS:
        parts = parts[1:]
    return ".".join(parts)


@dataclass(frozen=True)
class Names:
    """Names of a file's tensors beside those of the model."""

    source: dict[str, str]
    """Name in the file, by own name."""

    @property
    def renamed(self) -> dict[str, str]:
        """Own name by the name in the file, where they differ."""
        return {theirs: ours for ours, theirs in self.source.items() if theirs != ours}

    def check(self, wanted: Iterable[str], public: PublicFormat) -> None:
        """Check that the file has the model's parameters and nothing else but what its family ignores.

        Raises:
            ValueError: some are missing, or there are others.
        """
        names = list(wanted)
        missing = [name for name in names if name not in self.source]
        if missing:
            raise ValueError(
                f"the file lacks {_some(missing)} of the model's {len(names)} parameters: it is of another "
                f"architecture or cut off; take a whole {public.models} checkpoint"
            )
        known = {*names, *public.ignored}
        extra = [theirs for ours, theirs in self.source.items() if ours not in known]
        if extra:
            raise ValueError(
                f"the file has {_some(extra)}, which this model does not have: it is of another architecture, and "
                f"without them it would compute something else; take an {public.models} checkpoint"
            )


def match(tensors: Mapping[str, Tensor]) -> Names:
    """Names of a file's tensors.

    Raises:
        ValueError: two of them have the same own name.
    """
    source: dict[str, str] = {}
    for theirs in tensors:
        ours = own_name(theirs)
        if ours in source:
            raise ValueError(
                f"the file has both {source[ours]} and {theirs}, and either could be {ours}: save one model's "
                "state_dict alone"
            )
        source[ours] = theirs
    return Names(source)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
