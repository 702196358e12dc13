"""A mapping of settings held against the dataclasses that define them, before anything is built."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def is_section(kind: Any) -> bool:
    """Whether a field of type `kind` holds settings of its own."""
    return is_dataclass(kind)


def checked(root: type, cls: type, mapping: Any, prefix: str, where: str) -> dict[str, Any]:
    """The part of `mapping` at section `prefix` (class `cls`) of `root`: every key known, every value of its type.

    Raises:
        ValueError: an unknown key, with the nearest known one; a value of a wrong type, with what is expected.
    """
    if mapping is None:  # a section whose settings are all commented out
        return {}
    if not isinstance(mapping, Mapping):
        section = prefix.rstrip(".")
        first = f"{prefix}{fields(cls)[0].name}"
        raise ValueError(f"{section} is {mapping!r} ({where}): it is a section, give its settings, e.g. {first}")
    types = get_type_hints(cls)
    result = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if key not in types:
            raise ValueError(f"unknown setting {name} ({where}): {_nearest(root, cls, prefix, str(key))}")
        kind = types[key]
        try:
            result[key] = checked(root, kind, value, f"{name}.", where) if is_section(kind) else _cast(kind, value)
        except TypeError:
            raise ValueError(f"{name} is {value!r} ({where}): set it to {expected(kind)}") from None
    return result


def _cast(kind: Any, value: Any) -> Any:
    """`value` as type `kind`; TypeError where it is something else.

    A bool is no number; one item stands for a list of it; text such as 3e-4, which YAML 1.1 does not
    see as a number, is one where a number is due.
    """
    if get_origin(kind) is Literal:
        if any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
            return value
    elif get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return tuple(_cast(kinds[0], item) for item in items)
        if len(kinds) == len(items):
            return tuple(_cast(one, item) for one, item in zip(kinds, items, strict=True))
    elif kind is float and type(value) in (int, float, str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise TypeError from None
        if math.isfinite(number):
            return number
    elif type(value) is kind:
        return value
    raise TypeError


def expected(kind: Any) -> str:
    """What a user may write for a field of type `kind`."""
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return f"a list in which each item is {expected(kinds[0])}"
        return f"a list of {len(kinds)}: {', '.join(expected(one) for one in kinds)}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text (in quotes)"}[kind]


def _nearest(root: type, cls: type, prefix: str, key: str) -> str:
    """Advice on an unknown `key` of section `prefix`: the nearest setting, by name here or anywhere."""
    here = [field.name for field in fields(cls)]
    last = {name: name.rpartition(".")[2] for name, _ in settings(root)}
    near = [prefix + name for name in difflib.get_close_matches(key, here, n=1)]
    if not near:
        closest = difflib.get_close_matches(key, dict.fromkeys(last.values()), n=1)
        near = [name for name in last if last[name] in closest]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(prefix + name for name in here)}"


def settings(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted name below `cls` with its type, sections included."""
    for name, kind in get_type_hints(cls).items():
        yield prefix + name, kind
        if is_section(kind):
            yield from settings(kind, f"{prefix}{name}.")
