"""Which settings shape a result, as their fields say: what identifies it, and what a run that goes on must keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from imdm_dist.config.load import to_dict
from imdm_dist.config.setting import default_of, meaning_of


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
    return {
        f"{name}.{field.name}": to_dict(section)[field.name]
        for name in sections
        for section in [getattr(config, name)]
        for field in _shaping(section)
        if not meaning_of(field).changes_on_resume
    }


def _shaping(section: Any) -> Iterator[Field[Any]]:
    return (field for field in fields(section) if meaning_of(field).shapes)


def identifying_settings(section: Any) -> dict[str, Any]:
    """The settings of one section that identify a result, as `shaping_settings` gives them."""
    values, kept = to_dict(section), {}
    for field in _shaping(section):
        value = getattr(section, field.name)
        if not (meaning_of(field).later and value == default_of(field)):
            kept[field.name] = identifying_settings(value) if is_dataclass(value) else values[field.name]
    return kept
