"""Validates the entries of a chain's file: names, keys, and that each stage starts from fitting stages above it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdm_dist.chain.stage import Input, Stage
from imdm_dist.files import check_name
from imdm_dist.registry import STAGES

COMMON_KEYS = ("name", "kind", "set")
"""Keys of every entry."""
Entry = dict[str, Any]


def class_of(kind: str) -> type[Stage]:
    """The class of a kind of stage.

    Raises:
        ValueError: there is no such kind.
    """
    found: type[Stage] = STAGES.get(kind)
    return found


def check_entries(path: Path | str, entries: Any) -> None:
    """Check the stages of the chain in `path`: names, keys, and that each starts from fitting stages above it.

    Raises:
        ValueError: one of these is wrong.
    """
    if not isinstance(entries, list):
        raise ValueError(f"stages of {path} is {entries!r}: give a list, a stage each, such as in configs/")
    for entry in entries:
        kind = entry.get("kind") if isinstance(entry, dict) and "name" in entry else None
        if not isinstance(kind, str) or not (kind in STAGES.names or ":" in kind):
            kinds = f"{', '.join(STAGES.names)} (or module:Class)"
            raise ValueError(f"{path}: a stage needs a name and a kind out of {kinds}: {entry!r}")
        check_name(entry["name"], f"the name of a stage of {path}")
    names = [entry["name"] for entry in entries]
    above: dict[str, Entry] = {}
    for entry in entries:
        name, cls = entry["name"], class_of(entry["kind"])
        where = f"stage {name} of {path}"
        if name in above:
            raise ValueError(f"{path} has two stages called {name}: rename one")
        _check_keys(where, entry, cls)
        check_section(entry.get("set"), f"set of {where}")
        for key, wanted in cls.inputs_by_key().items():
            given = entry.get(key) or {}
            for one in given.values() if isinstance(given, dict) else [given]:
                _check_input(f"{key} of {where} is {one}", one, wanted, above, names)
        above[name] = entry


def check_section(value: Any, what: str) -> dict[str, Any]:
    """Settings by section; none given is an empty mapping.

    Raises:
        ValueError: it is no mapping.
    """
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}: give sections of settings, such as {{train: {{steps: 1000}}}}")
    return value or {}


def _check_keys(where: str, entry: Entry, cls: type[Stage]) -> None:
    own, inputs = cls.own_fields(), cls.inputs_by_key()
    known = list(
        dict.fromkeys([*COMMON_KEYS, *own, *(key for kind in STAGES.names for key in class_of(kind).own_fields())])
    )
    for key, value in entry.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join([*COMMON_KEYS, *own])}"
            raise ValueError(f"{where} has an unknown key {key}: {hint}")
        if key in COMMON_KEYS or value is None:
            continue
        if key not in own:
            raise ValueError(f"{where} has {key}, which a stage of kind {entry['kind']} does not read: leave it out")
        if key in inputs:
            _check_names(where, key, value, inputs[key].labelled)
    for key in cls.needed_keys():
        if entry.get(key) in (None, "", {}, []):
            raise ValueError(f"{where} is of kind {entry['kind']}: it needs {key}")


def _check_names(where: str, key: str, value: Any, labelled: bool) -> None:
    if not labelled and not isinstance(value, str):
        raise ValueError(f"{key} of {where} is {value!r}: give the name of one stage")
    if labelled:
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError(f"{key} of {where} is {value!r}: give stages by name in the table, e.g. {{MDLM: teacher}}")
        for label in value:
            check_name(label, f"a name in {key} of {where}")


def _check_input(what: str, name: str, wanted: Input, above: Mapping[str, Entry], names: list[str]) -> None:
    """Raise ValueError unless a stage above has that name and makes what is wanted, or it may be something else."""
    if name in above:
        kind = above[name]["kind"]
        if class_of(kind).makes != wanted.makes:
            fitting = [one for one in STAGES.names if class_of(one).makes == wanted.makes]
            raise ValueError(f"{what}, a stage of kind {kind}: name one of kind {' or '.join(fitting)}")
        return
    if not wanted.elsewhere or name in names:
        raise ValueError(f"{what}, which is no stage above it: correct the name or the order")
    near = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    if near and not Path(name).is_dir():
        raise ValueError(f"{what}: did you mean stage {near[0]}?")
