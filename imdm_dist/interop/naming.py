"""Maps the tensor names of a published checkpoint to parameter names: prefixes of trainers and compilers come off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from imdm_dist.model.public_checkpoints import PublicFormat

_WRAPPERS = ("_orig_mod",)
_OWNERS = ("backbone", "mdlm", "module")
_SHOWN = 4
"""Parameters that a message names; the rest are counted."""


def own_name(name: str) -> str:
    """Name of a parameter without the prefixes of torch.compile, Lightning modules and hub classes."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _OWNERS:
        parts = parts[1:]
    return ".".join(parts)


def names_in_file(tensors: Iterable[str]) -> dict[str, str]:
    """The names of a file's tensors by own name.

    Raises:
        ValueError: two of them have the same own name.
    """
    names: dict[str, str] = {}
    for theirs in tensors:
        ours = own_name(theirs)
        if ours in names:
            raise ValueError(
                f"the file has both {names[ours]} and {theirs}, and either could be {ours}: save one model's "
                "state_dict alone"
            )
        names[ours] = theirs
    return names


def check_names(names: Mapping[str, str], wanted: Collection[str], public: PublicFormat) -> None:
    """Check that a file has the model's parameters and nothing else but what its family ignores.

    Args:
        names: as `names_in_file`.
        wanted: the model's parameters.

    Raises:
        ValueError: some are missing, or there are others.
    """
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"the file lacks {_some(missing)} of the model's {len(wanted)} parameters: it is of another "
            f"architecture or cut off; take a whole {public.models} checkpoint"
        )
    extra = [theirs for ours, theirs in names.items() if ours not in wanted and ours not in public.ignored]
    if extra:
        raise ValueError(
            f"the file has {_some(extra)}, which this model does not have: it is of another architecture, and "
            f"without them it would compute something else; take an {public.models} checkpoint"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
