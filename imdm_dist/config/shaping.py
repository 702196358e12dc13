"""Which settings shape a result, as their fields say: what identifies it, and what a run that goes on must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from imdm_dist.config.load import to_dict
from imdm_dist.config.setting import Meaning, default_of, meaning_of


def shaping_settings(config: Any, *names: str) -> dict[str, Any]:
    """The settings that identify a result, as JSON-able values.

    Those that came after results existed are left out while they are at their default.

    Args:
        config: all sections.
        names: what the result depends on: `model` is a section, as one mapping; `train.*` is a section, each setting by
            its dotted name; `train.valid_rows` is one setting, whatever its field says of other results.
    """
    kept: dict[str, Any] = {}
    for name in names:
        section, _, one = name.partition(".")
        if one not in ("", "*"):
            kept[name] = to_dict(getattr(config, section))[one]
            continue
        found = identifying_settings(getattr(config, section))
        kept |= {f"{section}.{key}": value for key, value in found.items()} if one else {section: found}
    return kept


def fixed_settings(config: Any, *sections: str) -> dict[str, Any]:
    """The settings of sections that a run may not change when it goes on, by dotted name, as JSON-able values."""
    fixed: dict[str, Any] = {}
    for name in sections:
        found = _chosen(getattr(config, name), lambda said, default: said.shapes and not said.changes_on_resume)
        fixed |= {f"{name}.{key}": value for key, value in found.items()}
    return fixed


def identifying_settings(section: Any) -> dict[str, Any]:
    """The settings of one section that identify a result, as `shaping_settings` gives them."""
    return _chosen(section, lambda said, default: said.shapes and not (said.later and default))


def _chosen(section: Any, counts: Callable[[Meaning, bool], bool]) -> dict[str, Any]:
    """The settings of a section that count, by what their fields say and whether they are at their default."""
    values, chosen = to_dict(section), {}
    for field in fields(section):
        value = getattr(section, field.name)
        if counts(meaning_of(field), value == default_of(field)):
            chosen[field.name] = _chosen(value, counts) if is_dataclass(value) else values[field.name]
    return chosen
