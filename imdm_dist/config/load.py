"""Configuration from its sources: defaults < YAML file < `key.sub=value` on the command line.

`build` is the one way in: it checks every source against the dataclasses, so that an error names the
source it stands in, and only then merges them. The other functions are its common uses.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from imdm_dist.config.check import Layer, checked, expected, is_section, settings
from imdm_dist.config.setting import Variants, default_of, variants_of
from imdm_dist.config.yaml_text import dump_yaml, parse_yaml, read_yaml

T = TypeVar("T")


def load_config(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """The configuration `cls` from its defaults, the YAML file `path` if given, and `key.sub=value` overrides.

    Raises:
        ValueError: an unreadable file, an unknown setting, a value of a wrong type or out of its range.
    """
    layers = [Layer(f"in {path}", _settings_of(path))] if path is not None else []
    return build(cls, [*layers, Layer("on the command line", parse_overrides(cls, overrides))])


def load_over(base: T, path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """As `load_config`, with the settings of `base`, such as a trained model's, in place of the defaults."""
    layers = [Layer("in what it starts from", to_dict(base), shared=True)]
    layers += [Layer(f"in {path}", _settings_of(path))] if path else []
    return build(type(base), [*layers, Layer("on the command line", parse_overrides(type(base), overrides))])


def _settings_of(path: str | Path) -> dict[str, Any]:
    content = read_yaml(path)
    if "stages" in content:
        raise ValueError(
            f"{path} is a chain of stages, not the settings of one run: give it to imdm_dist run, "
            "or take a file of settings such as configs/embedded.yaml"
        )
    return content


def from_dict(cls: type[T], mapping: Mapping[str, Any], where: str = "the given settings") -> T:
    """The configuration `cls` from a record, a mapping as `to_dict` makes it; what it leaves out keeps its default.

    Records of before a section had kinds hold the settings of all of them.
    """
    return build(cls, [Layer(f"in {where}", mapping, shared=True)])


def build(cls: type[T], layers: Sequence[Layer | tuple[str, Any]]) -> T:
    """The configuration `cls` from mappings of rising precedence, each with the phrase that says where it stands.

    Example: `build(Config, [Layer("in chain.yaml", base, shared=True), ("in stage two of chain.yaml", stage)])`.

    Raises:
        ValueError: as `load_config`.
    """
    return _construct(cls, checked(cls, [Layer(*layer) for layer in layers]))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; where both hold a mapping these are merged, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_overrides(cls: type, overrides: Sequence[str]) -> dict[str, Any]:
    """The nested mapping that `key.sub=value` strings stand for; values are YAML, later ones win.

    A setting of type text takes the value as typed, so `data.train=train[:-100000]` needs no quotes.
    """
    types = dict(settings(cls))
    mapping: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"cannot read {override!r} on the command line: write key.sub=value, e.g. train.steps=10")
        parts = key.strip().split(".")
        value = _parse_value(types.get(".".join(parts)), text, f"{override!r} on the command line")
        for part in reversed(parts):
            value = {part: value}
        mapping = merge(mapping, value)
    return mapping


def _parse_value(kind: Any, text: str, where: str) -> Any:
    quoted = text.startswith(("'", '"'))
    if kind is str and not quoted:
        return text
    if kind == tuple[str, ...] and text and not quoted and not text.startswith("["):
        return text
    if get_origin(kind) is tuple and "," in text and not quoted and not text.startswith("["):
        text = f"[{text}]"  # of numbers: brackets mean something to the shell
    return parse_yaml(text, where)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON-able dicts and lists; `from_dict` of it is equal to `config`."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return to_dict(value)
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in fields(config)}


def to_yaml(config: Any) -> str:
    """A configuration as YAML text that `load_config` reads back."""
    return dump_yaml(to_dict(config))


def describe(cls: type) -> str:
    """The defaults of `cls` as a YAML file in which every setting carries its documentation as a comment."""
    return "".join(f"{line}\n" for line in _described(cls)).lstrip("\n")


def _described(cls: type, without: Collection[str] = ()) -> Iterator[str]:
    docs, types = _field_docs(cls), get_type_hints(cls)
    for field in fields(cls):
        kind = types[field.name]
        if field.name in without:
            continue
        if is_section(kind):
            variants = variants_of(field)
            within = _described_kinds(variants, kind) if variants else _described(kind)
            yield from ("", *_comment(inspect.getdoc(kind) or ""), f"{field.name}:")
            yield from (f"  {line}" if line else line for line in within)
        else:
            yield from _comment(docs.get(field.name, ""))
            if get_origin(kind) is Literal:
                yield from _comment(f"One of: {expected(kind)}")
            default = default_of(field)
            default = None if default is MISSING else list(default) if isinstance(default, tuple) else default
            yield dump_yaml({field.name: default}).rstrip("\n")


def _described_kinds(variants: Variants, base: type) -> Iterator[str]:
    """A section with the settings of its default kind, and those of the others as comments."""
    key, default = variants.key, variants.default
    yield from _comment(_field_docs(base)[key])
    yield from _comment(f"One of: {' | '.join(variants.registry.names)} | module:Class")
    yield f"{key}: {default}"
    for name in (default, *(name for name in variants.registry.names if name != default)):
        config = variants.config(name)
        yield from _comment(f"{key}: {name} - {inspect.getdoc(config)}")
        lines = _described(config, without=[key])
        yield from lines if name == default else (line if line.startswith("#") else f"# {line}" for line in lines)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 112)]


def _field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a class and of those that it extends, which Python itself does not keep."""
    docs = {}
    for one in reversed([one for one in cls.__mro__ if is_dataclass(one)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(statement.target, ast.Name) and isinstance(below.value, ast.Constant)
                assert isinstance(below.value.value, str)
                docs[statement.target.id] = inspect.cleandoc(below.value.value)
    return docs


def _construct(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """An instance from checked values, inner sections first; its `__post_init__` may raise ValueError."""
    types = get_type_hints(cls)
    given = {}
    for field in fields(cls):  # type: ignore[arg-type]
        name = field.name
        if name not in values:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{prefix}{name} is missing: set it to {expected(types[name])}")
        elif is_section(types[name]):
            kind, inner = types[name], values[name]
            if variants := variants_of(field):
                inner = {variants.key: variants.default, **inner}
                kind = variants.config(inner[variants.key])
            given[name] = _construct(kind, inner, f"{prefix}{name}.")
        else:
            given[name] = values[name]
    return cls(**given)
