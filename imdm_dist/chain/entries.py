"""The stages of a chain's file, held against what a stage may say, before anything is made of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from imdm_dist.files import check_name

Kind = Literal["given", "train", "coupling", "evaluator", "evaluation"]
MODELS: tuple[Kind, ...] = ("train", "given")
"""Kinds whose result is a model."""
_INPUTS: Mapping[str, Mapping[str, tuple[Kind, ...]]] = {
    "given": {},
    "train": {"init": MODELS, "coupling": ("coupling",)},
    "coupling": {"teacher": MODELS},
    "evaluator": {},
    "evaluation": {"models": MODELS, "coupling": ("coupling",), "evaluator": ("evaluator",)},
}
"""Keys by which a kind of stage names others, and the kinds that those may be."""
_NEEDED = {"coupling": ("teacher",), "evaluation": ("models",)}


def check_entries(path: Path | str, entries: Any) -> None:
    """Check the stages of the chain in `path`: names, keys, and that each starts from fitting stages above it.

    Raises:
        ValueError: one of these is wrong.
    """
    if not isinstance(entries, list):
        raise ValueError(f"stages of {path} is {entries!r}: give a list, a stage each, such as in configs/")
    for entry in entries:
        if not isinstance(entry, dict) or "name" not in entry or entry.get("kind") not in get_args(Kind):
            raise ValueError(f"{path}: a stage needs a name and a kind out of {', '.join(get_args(Kind))}: {entry!r}")
        check_name(entry["name"], f"the name of a stage of {path}")
    names = [entry["name"] for entry in entries]
    kinds: dict[str, Kind] = {}
    for entry in entries:
        name, kind = entry["name"], entry["kind"]
        where = f"stage {name} of {path}"
        if name in kinds:
            raise ValueError(f"{path} has two stages called {name}: rename one")
        _check_keys(where, entry)
        check_section(entry.get("set"), f"set of {where}")
        for key, wanted in _INPUTS[kind].items():
            given = entry.get(key) or {}
            for one in given.values() if isinstance(given, dict) else [given]:
                _check_input(f"{key} of {where} is {one}", one, wanted, kinds, names)
        kinds[name] = kind


def check_section(value: Any, what: str) -> dict[str, Any]:
    """Settings by section; none given is an empty mapping.

    Raises:
        ValueError: it is no mapping.
    """
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}: give sections of settings, such as {{train: {{steps: 1000}}}}")
    return value or {}


def _check_keys(where: str, entry: dict[str, Any]) -> None:
    kind, inputs = entry["kind"], _INPUTS[entry["kind"]]
    known = ["name", "kind", "set", *dict.fromkeys(key for kind in _INPUTS.values() for key in kind)]
    for key, value in entry.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(known[:3] + list(inputs))}"
            raise ValueError(f"{where} has an unknown key {key}: {hint}")
        if key in known[:3] or value is None:
            continue
        if key not in inputs:
            raise ValueError(f"{where} has {key}, which a stage of kind {kind} does not read: leave it out")
        if key != "models" and not isinstance(value, str):
            raise ValueError(f"{key} of {where} is {value!r}: give the name of one stage")
    models = entry.get("models") or {}
    if not isinstance(models, dict) or not all(isinstance(model, str) for model in models.values()):
        raise ValueError(f"models of {where} is {models!r}: give stages by name in the table, e.g. {{MDLM: teacher}}")
    for label in models:
        check_name(label, f"a name in models of {where}")
    for key in _NEEDED.get(kind, ()):
        if not entry.get(key):
            raise ValueError(f"{where} is of kind {kind}: it needs {key}")


def _check_input(
    what: str, name: str, wanted: tuple[Kind, ...], above: Mapping[str, Kind], names: Sequence[str]
) -> None:
    """Raise ValueError unless a stage above has that name and kind; an evaluator may be something else."""
    if name in above:
        if above[name] not in wanted:
            raise ValueError(f"{what}, a stage of kind {above[name]}: name one of kind {' or '.join(wanted)}")
        return
    if "evaluator" not in wanted or name in names:
        raise ValueError(f"{what}, which is no stage above it: correct the name or the order")
    near = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    if near and not Path(name).is_dir():
        raise ValueError(f"{what}: did you mean stage {near[0]}?")
