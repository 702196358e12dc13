"""A chain: a DAG (directed acyclic graph) of stages in one YAML file, each with its settings and its inputs::

    name: demo
    base: {data: {...}, model: {...}}          # settings of every stage
    stages:
      - {name: teacher, kind: train, set: {train: {steps: 1000}}}
      - {name: pairs, kind: coupling, teacher: teacher}
      - {name: student, kind: train, init: teacher, coupling: pairs, set: {objective: {kind: redi}}}
      - {name: judge, kind: evaluator}
      - {name: table, kind: evaluation, models: {MDLM: teacher, ReDi: student}, evaluator: judge}

A stage names only stages above it.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from imdm_dist.chain.stage import Stage
from imdm_dist.chain.validation import COMMON_KEYS, Entry, check_entries, check_section, class_of
from imdm_dist.config import Config, Layer, build, parse_overrides, read_yaml, to_dict
from imdm_dist.config.check import checked
from imdm_dist.config.yaml_text import dump_yaml
from imdm_dist.files import check_name, freeze_text, read_record, write_json

OVERRIDES = "overrides.json"


@dataclass(frozen=True)
class Chain:
    """Stages in an order in which each comes after those it starts from."""

    name: str
    stages: tuple[Stage, ...]
    overrides: tuple[str, ...] = field(default=(), compare=False)
    """Settings that won over the file's."""

    @property
    def by_name(self) -> dict[str, Stage]:
        """The stages by name."""
        return {stage.name: stage for stage in self.stages}

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return self.by_name[name]

    def inputs(self, stage: Stage) -> list[str]:
        """Names of the stages that a stage starts from."""
        return [name for name in stage.inputs() if name in self.by_name]


def load_chain(path: Path | str, overrides: Sequence[str] = ()) -> Chain:
    """Read a chain; `key.sub=value` overrides win over the file, in all stages or as `stage/key.sub=value` in one.

    `stage/key=value` gives a key of the stage itself, such as another evaluator.

    Raises:
        ValueError: the file is no chain, or names stages or settings that do not exist or do not fit.
    """
    content = read_yaml(path)
    form = "a chain has name, base and stages (see configs/embedded_chain.yaml)"
    for key in content:
        if key not in ("name", "base", "stages"):
            raise ValueError(f"{path} has an unknown key {key}: {form}{_of_a_run(content)}")
    if not content.get("stages"):
        raise ValueError(f"{path} has no stages: {form}")
    base = check_section(content.get("base"), f"base of {path}")
    name = Path(path).stem if content.get("name") is None else content["name"]
    check_name(name, f"name of {path}")
    check_entries(path, content["stages"])
    given = tuple(overrides)
    entries, overrides = _with_keys(content["stages"], overrides)
    check_entries(path, entries)
    names = [entry["name"] for entry in entries]
    for override in overrides:
        stage, slash, _ = override.split("=")[0].partition("/")
        if slash and stage not in names:
            raise ValueError(f"{override}: there is no stage {stage}; stages are {', '.join(names)}")
    return Chain(name, tuple(_stage(path, base, entry, overrides) for entry in entries), given)


def _of_a_run(content: Mapping[str, Any]) -> str:
    """What to say of a file that holds the settings of one run."""
    sections = {one.name for one in fields(Config)}
    return "; settings of one run go to imdm_dist train --config" if sections & content.keys() else ""


def _with_keys(entries: Sequence[Entry], overrides: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The stages with the keys of their own that `stage/key=value` gives, and the other overrides."""
    changed = {entry["name"]: dict(entry) for entry in entries}
    others = []
    for override in overrides:
        name, _, setting = override.partition("/")
        cls = class_of(changed[name]["kind"]) if name in changed else Stage
        if setting.partition("=")[0] in cls.own_fields():
            changed[name] |= parse_overrides(cls, [setting])
        else:
            others.append(override)
    return list(changed.values()), others


def _stage(path: Path | str, base: dict[str, Any], entry: Entry, overrides: Sequence[str]) -> Stage:
    where = f"stage {entry['name']} of {path}"
    of_all = [o for o in overrides if "/" not in o.split("=")[0]]
    ours = [o.partition("/")[2] for o in overrides if o.split("=")[0].startswith(f"{entry['name']}/")]
    layers = [
        Layer(f"in {path}", base, shared=True),
        Layer(f"in {where}", entry.get("set")),
        Layer("on the command line", parse_overrides(Config, of_all), shared=True),
        Layer("on the command line", parse_overrides(Config, ours)),
    ]
    cls = class_of(entry["kind"])
    given = {key: value for key, value in entry.items() if key not in COMMON_KEYS and value is not None}
    own = checked(cls, [Layer(f"in {where}", {key: given[key] for key in given.keys() - cls.inputs_by_key()})])
    stage = cls(name=entry["name"], kind=entry["kind"], config=build(Config, layers), **(given | own))
    stage.check(where)
    return stage


def needed(chain: Chain, name: str) -> tuple[Stage, ...]:
    """A stage and all that it starts from, in the chain's order.

    Raises:
        ValueError: there is no such stage.
    """
    names = [stage.name for stage in chain.stages]
    if name not in names:
        raise ValueError(f"there is no stage {name}: the chain has {', '.join(names)}")
    wanted = {name}
    for stage in reversed(chain.stages):
        if stage.name in wanted:
            wanted.update(chain.inputs(stage))
    return tuple(stage for stage in chain.stages if stage.name in wanted)


def chain_yaml(chain: Chain) -> str:
    """A chain as YAML text that `load_chain` reads back, settings resolved: in `base` what all stages agree on."""
    entries = [to_dict(stage) for stage in chain.stages]
    base = functools.reduce(_common, (entry["config"] for entry in entries))
    text = dump_yaml({"name": chain.name, "base": base}) + "stages:\n"
    for stage, entry in zip(chain.stages, entries, strict=True):
        own = _different(entry.pop("config"), base)
        entry = {key: value for key, value in entry.items() if value or key not in stage.inputs_by_key()} | {"set": own}
        text += "  - " + textwrap.indent(dump_yaml(entry), "    ").lstrip()
    return text


def freeze_chain(chain: Chain, home: Path) -> Path:
    """Write a chain with its settings resolved, whatever becomes of the file it came from; returns where."""
    return freeze_text(home / "chains", chain_yaml(chain))


def save_overrides(home: Path, overrides: Sequence[str]) -> None:
    """Keep the overrides that a chain was last run with in its folder."""
    if last_overrides(home) != list(overrides):
        write_json(home / OVERRIDES, list(overrides))


def last_overrides(home: Path) -> list[str]:
    """Those overrides; none if the chain was never run, or their record is not whole."""
    record = read_record(home / OVERRIDES, list) or []
    return record if all(isinstance(one, str) for one in record) else []


def _common(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The settings that are in both with the same value."""
    return {
        k: _common(v, other[k]) if isinstance(v, dict) else v
        for k, v in one.items()
        if k in other and (isinstance(v, dict) or v == other[k])
    }


def _different(one: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The settings of `one` that `base` lacks."""
    return {k: _different(v, base.get(k, {})) if isinstance(v, dict) else v for k, v in one.items() if v != base.get(k)}
