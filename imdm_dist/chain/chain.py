"""A chain: named stages in one YAML file, each with its settings and the stages it starts from.

```yaml
name: demo
base: {data: {...}, model: {...}}          # settings of every stage
stages:
  - {name: teacher, kind: train, set: {train: {steps: 1000}}}
  - {name: pairs, kind: coupling, teacher: teacher}
  - {name: student, kind: train, init: teacher, coupling: pairs, set: {objective: {kind: redi}}}
  - {name: judge, kind: evaluator}
  - {name: table, kind: evaluation, models: {MDLM: teacher, ReDi: student}, evaluator: judge}
```
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from imdm_dist.chain.entries import Kind, check_entries, check_section
from imdm_dist.config import Config, build, parse_overrides, read_yaml, to_dict
from imdm_dist.config.yaml_text import dump_yaml
from imdm_dist.files import check_name


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a chain."""

    name: str
    """What it is called, in the file and on disk."""
    kind: Kind
    """What it does."""
    config: Config
    """Its settings, resolved."""
    init: str = ""
    """train: stage whose weights it starts from."""
    coupling: str = ""
    """train: stage whose pairs it learns; evaluation: pairs that models without their own are compared with."""
    teacher: str = ""
    """coupling: stage whose model rolls out."""
    evaluator: str = ""
    """evaluation: stage whose language model scores, or a folder or hub name that transformers loads; empty: none."""
    models: Mapping[str, str] = field(default_factory=dict)
    """evaluation: stages by the name they have in the table."""

    def inputs(self) -> list[str]:
        """Names of what it starts from: stages, but for an evaluator that is a folder or a hub name."""
        named = [self.init, self.coupling, self.teacher, self.evaluator, *self.models.values()]
        return list(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True)
class Chain:
    """Stages in an order in which each comes after those it starts from."""

    name: str
    stages: tuple[Stage, ...]
    overrides: tuple[str, ...] = field(default=(), compare=False)
    """Settings that won over the file's."""

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def inputs(self, stage: Stage) -> list[str]:
        """Names of the stages that a stage starts from."""
        names = {other.name for other in self.stages}
        return [name for name in stage.inputs() if name in names]


def load_chain(path: Path | str, overrides: Sequence[str] = ()) -> Chain:
    """Read a chain; `key.sub=value` overrides win over the file, in all stages or as `stage/key.sub=value` in one.
    `stage/evaluator=NAME` names another evaluator.

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
    entries, overrides = _with_evaluators(content["stages"], overrides)
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


def _with_evaluators(
    entries: Sequence[dict[str, Any]], overrides: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The stages with the evaluators that `stage/evaluator=NAME` names, and the other overrides.

    It is the one key of a stage that is a place on the user's machine.
    """
    given = {o.partition("/evaluator=")[0]: o.partition("/evaluator=")[2] for o in overrides if "/evaluator=" in o}
    changed = [{**entry, "evaluator": given[entry["name"]]} if entry["name"] in given else entry for entry in entries]
    names = [entry["name"] for entry in entries]
    return changed, [o for o in overrides if o.partition("/evaluator=")[0] not in given or o.split("/")[0] not in names]


def _stage(path: Path | str, base: dict[str, Any], entry: dict[str, Any], overrides: Sequence[str]) -> Stage:
    where = f"stage {entry['name']} of {path}"
    ours = [o for o in overrides if "/" not in o.split("=")[0]]
    ours += [o.partition("/")[2] for o in overrides if o.split("=")[0].startswith(f"{entry['name']}/")]
    layers = [
        (f"in {path}", base),
        (f"in {where}", entry.get("set") or {}),
        ("on the command line", parse_overrides(Config, ours)),
    ]
    given = {key: value for key, value in entry.items() if key != "set" and value is not None}
    stage = Stage(config=build(Config, layers), **given)
    inputs = stage.config.inputs
    if stage.kind == "given" and not inputs.init:
        raise ValueError(
            f"{where} is of kind given: set its run or imported checkpoint, here or as {stage.name}/inputs.init=PATH"
        )
    if inputs.coupling or (inputs.init and stage.kind != "given"):
        raise ValueError(f"{where} sets inputs.*: name the stages with init and coupling instead")
    objective = stage.config.objective.kind
    if stage.kind == "train" and (objective == "redi") != bool(stage.coupling):
        remedy = "set objective.kind=redi or leave out" if stage.coupling else "name the stage that makes its pairs in"
        raise ValueError(f"{where} has objective.kind={objective}: {remedy} coupling")
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
            # What a model of a table was trained on counts there too.
            wanted.update(chain.stage(model).coupling for model in stage.models.values())
    return tuple(stage for stage in chain.stages if stage.name in wanted)


def chain_yaml(chain: Chain) -> str:
    """A chain as YAML text that `load_chain` reads back, settings resolved: in `base` what all stages agree on."""
    settings = [to_dict(stage.config) for stage in chain.stages]
    base = settings[0]
    for one in settings[1:]:
        base = _common(base, one)
    text = dump_yaml({"name": chain.name, "base": base}) + "stages:\n"
    for stage, own in zip(chain.stages, settings, strict=True):
        entry = {f.name: getattr(stage, f.name) for f in fields(Stage) if f.name != "config"}
        entry = {key: value for key, value in entry.items() if value} | {"set": _different(own, base)}
        text += "  - " + textwrap.indent(dump_yaml(entry), "    ").lstrip()
    return text


def _common(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The settings that are in both with the same value."""
    return {
        k: _common(v, other[k]) if isinstance(v, dict) else v
        for k, v in one.items()
        if isinstance(v, dict) or (k in other and v == other[k])
    }


def _different(one: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The settings of `one` that `base` lacks."""
    return {k: _different(v, base[k]) if isinstance(v, dict) else v for k, v in one.items() if v != base.get(k)}
