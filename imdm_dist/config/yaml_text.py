"""YAML in and out, without the surprises of YAML 1.1.

PyYAML reads `off` as false, `3e-4` as text, `1:30` as 90 and `010` as 8, and of a key given twice it
takes the last. Here `off` and `1:30` are text, `3e-4` is a number, and a second key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imdm_dist.files import refuse_lfs_pointers


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the plain scalars of YAML 1.2 and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that writes lists in one line, and in quotes any text that YAML 1.1 or 1.2 misreads."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


_SCALARS = (
    # type, what it looks like, the characters it can start with
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("merge", r"<<", ["<"]),
)
for _type, _pattern, _starts in _SCALARS:
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", re.compile(f"^(?:{_pattern})$"), _starts)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The value that `text` stands for.

    Raises:
        ValueError: `text` is no YAML or gives a key twice; the message starts with `where`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{where}{line}: {error.problem}: correct the YAML there") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where} is not readable YAML ({' '.join(str(error).split())}): correct it") from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ValueError: the file is missing, unreadable, no YAML or no mapping.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: give a YAML file such as those in configs/") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a readable YAML file") from None
    refuse_lfs_pointers(path)
    value = parse_yaml(content, str(path))
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} holds a {type(value).__name__}: write sections such as 'train:' with settings below")
    return dict(value)


def dump_yaml(value: Any) -> str:
    """`value` (plain dicts, lists and scalars) as YAML text that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
