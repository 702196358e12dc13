"""Mappings of settings held against the dataclasses that define them, before anything is built.

The class of a section may follow from one of its settings (`variant_section`): the last word on that one decides, and
its other settings are then those of this kind. A setting that only another kind reads is refused where somebody wrote
it for this run. It is left out where it is meant for others too (what the stages of a chain share), where it comes from
a record, and where a later layer has changed the kind that it was written for.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from imdm_dist.config.setting import Variants, default_of, require, variants_of


class Layer(NamedTuple):
    """Settings from one place."""

    where: str
    """The phrase that says where they stand."""
    settings: Any
    """A mapping; None is an empty one."""
    shared: bool = False
    """Meant for others too: what only another kind of a section reads is left out, not refused."""


def is_section(kind: Any) -> bool:
    """Whether a field of type `kind` holds settings of its own."""
    return is_dataclass(kind)


def checked(root: type, layers: Sequence[Layer], cls: type | None = None, prefix: str = "") -> dict[str, Any]:
    """What `layers`, of rising precedence, set of `root`: every key known, every value of its type.

    Args:
        cls, prefix: the section of `root` that they are of; None is all of it.

    Raises:
        ValueError: an unknown key, with the nearest known one; a value of a wrong type, with what is expected; a
            setting that only another kind of its section reads.
    """
    cls = cls or root
    types = get_type_hints(cls)
    found: dict[str, Any] = {}
    inner: dict[str, list[Layer]] = {}
    for layer in layers:
        for key, value in _items(cls, layer, prefix):
            name = f"{prefix}{key}"
            if key not in types:
                raise ValueError(f"unknown setting {name} ({layer.where}): {_nearest(root, cls, prefix, str(key))}")
            if is_section(types[key]):
                inner.setdefault(key, []).append(layer._replace(settings=value))
            else:
                found[key] = _value(name, types[key], value, layer.where)
    for field in fields(cls):
        if field.name in inner:
            name = f"{prefix}{field.name}."
            kind, parts = types[field.name], inner[field.name]
            if variants := variants_of(field):
                kind, parts = _one_kind(variants, parts, types[field.name], name)
            found[field.name] = checked(root, parts, kind, name)
    return found


def _items(cls: type, layer: Layer, prefix: str) -> list[tuple[Any, Any]]:
    """The settings of a layer at a section, which may have none."""
    if layer.settings is None:  # a section whose settings are all commented out
        return []
    if not isinstance(layer.settings, Mapping):
        section, first = prefix.rstrip("."), f"{prefix}{fields(cls)[0].name}"
        what = "it is a section, give its settings"
        raise ValueError(f"{section} is {layer.settings!r} ({layer.where}): {what}, e.g. {first}")
    return list(layer.settings.items())


def _one_kind(variants: Variants, layers: Sequence[Layer], base: type, prefix: str) -> tuple[type, list[Layer]]:
    """The class of a section whose kind the last layer that names one decides, and what the layers set of it.

    A setting of another kind is refused where no layer up to its own has named that kind, unless it is at its default.
    """
    known, kinds, name = variants.known(), [], variants.default
    setting = f"{prefix}{variants.key}"
    for layer in layers:
        name = _value(setting, str, dict(_items(base, layer, prefix)).get(variants.key, name), layer.where)
        if name not in known:
            try:
                known[name] = variants.config(name)
            except ValueError as error:
                raise ValueError(f"{error} ({layer.where})") from None
        kinds.append(name)
    ours, kept = {field.name for field in fields(known[name])}, []
    for layer, here in zip(layers, kinds, strict=True):
        settings: dict[Any, Any] = {}
        for key, value in _items(base, layer, prefix):
            readers = {kind: field for kind, cls in known.items() for field in fields(cls) if field.name == key}
            if key in ours or not readers:  # what nobody reads is refused as an unknown setting
                settings[key] = value
            elif not layer.shared and here not in readers:
                kind, field = next(iter(readers.items()))
                its = get_type_hints(known[kind])[key]
                require(
                    not is_section(its) and _value(f"{prefix}{key}", its, value, layer.where) == default_of(field),
                    f"{prefix}{key} is read by {setting}={' and '.join(readers)}, which is {name} ({layer.where}): "
                    "set the one or leave the other out",
                )
        kept.append(layer._replace(settings=settings))
    return known[name], kept


def _value(name: str, kind: Any, value: Any, where: str) -> Any:
    """The value of a plain setting."""
    try:
        return _cast(kind, value)
    except TypeError:
        raise ValueError(f"{name} is {value!r} ({where}): set it to {expected(kind)}") from None


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
    """Every dotted name below `cls` with its type, sections and the settings of every registered kind included."""
    types = get_type_hints(cls)
    for field in fields(cls):
        kind, variants = types[field.name], variants_of(field)
        yield prefix + field.name, kind
        if is_section(kind):
            for one in variants.known().values() if variants else [kind]:
                yield from settings(one, f"{prefix}{field.name}.")
