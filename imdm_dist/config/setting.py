"""What sections of settings are made of: fields and what they do to results, sections of several kinds, refusals."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Literal, TypeVar

from imdm_dist.registry import Registry

T = TypeVar("T")
NoisePolicy = Literal["posterior", "fixed", "fresh"]
"""What becomes of mask noise between two sampling steps: see `imdm_dist.diffusion.redraw`."""
Weights = Literal["ema", "raw"]
"""A moving average of a model's weights, or the weights themselves."""


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds: for settings a user can get wrong."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Meaning:
    """What a setting does to results; see `setting`."""

    shapes: bool = True
    later: bool = False
    changes_on_resume: bool = False


def setting(default: T, *, shapes: bool = True, later: bool = False, changes_on_resume: bool = False) -> T:
    """A field of a section that says what it does to results; a field without this shapes them.

    Args:
        shapes: results depend on it. Paths, intervals and the division of work shape none.
        later: it came after results existed whose identity does not know it, and at its default they are the same:
            an identity has it only where it differs.
        changes_on_resume: it shapes the result, but a run may go on with another value than it began with.
    """
    made: T = field(default=default, metadata={"meaning": Meaning(shapes, later, changes_on_resume)})
    return made


def meaning_of(field: Field[Any]) -> Meaning:
    """What a field does to results."""
    found: Meaning = field.metadata.get("meaning", Meaning())
    return found


def default_of(field: Field[Any]) -> Any:
    """The default of a field; `MISSING` where it must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


@dataclass(frozen=True)
class Variants:
    """The classes that a section may have."""

    registry: Registry
    """What they configure, each with its settings as attribute `Config`; the first is the default."""

    @property
    def key(self) -> str:
        """The section's setting that names one."""
        return self.registry.setting.rpartition(".")[2]

    @property
    def default(self) -> str:
        """The name that counts where none is given."""
        return self.registry.names[0]

    def config(self, name: str) -> Any:
        """The settings of the kind `name`, a dataclass.

        Raises:
            ValueError: there is no such kind.
        """
        return self.registry.get(name).Config

    def known(self) -> dict[str, Any]:
        """The settings of every registered kind, by its name."""
        return {name: self.config(name) for name in self.registry.names}


def variant_section(registry: Registry) -> Any:
    """A section whose class follows from the setting that `registry` is for, such as objective.kind.

    It is the `Config` of what this names, or of the first in `registry`. The field is typed as the class that the
    settings of all kinds extend, which has that setting (`kind: str`). Settings that only another kind reads are
    refused in a file or on the command line, unless they are at their default, and left out where they come from what
    several stages share or from a record: see `imdm_dist.config.check`.
    """
    variants = Variants(registry)
    return field(default_factory=lambda: variants.config(variants.default)(), metadata={"variants": variants})


def variants_of(field: Field[Any]) -> Variants | None:
    """The classes that a section may have; None where it has but one."""
    return field.metadata.get("variants")
