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

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from imdm_dist.config import Config, build, parse_overrides, read_yaml

Kind = Literal["train", "coupling", "evaluator", "evaluation"]


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
    """evaluation: stage whose language model scores, or a folder or hub name that transformers loads."""
    models: Mapping[str, str] = field(default_factory=dict)
    """evaluation: stages by the name they have in the table."""

    def inputs(self) -> list[str]:
        """Names of the stages it starts from."""
        named = [self.init, self.coupling, self.teacher, self.evaluator, *self.models.values()]
        return list(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True)
class Chain:
    """Stages in an order in which each comes after those it starts from."""

    name: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def load_chain(path: Path | str, overrides: Sequence[str] = ()) -> Chain:
    """Read a chain; `key.sub=value` overrides win over the file, in all stages or as `stage/key.sub=value` in one.

    Raises:
        ValueError: the file is no chain, or names stages or settings that do not exist.
    """
    content = read_yaml(path)
    unknown = sorted(set(content) - {"name", "base", "stages"})
    if unknown or not content.get("stages"):
        problem = f"has an unknown key {unknown[0]}" if unknown else "has no stages"
        raise ValueError(f"{path} {problem}: a chain has name, base and stages (see configs/embedded_chain.yaml)")
    stages: list[Stage] = []
    for entry in content["stages"]:
        stages.append(_stage(path, content.get("base") or {}, entry, overrides, [stage.name for stage in stages]))
    for override in overrides:
        name = override.split("=")[0].partition("/")[0]
        if "/" in override.split("=")[0] and name not in (stage.name for stage in stages):
            raise ValueError(f"{override}: there is no stage {name}; stages are {', '.join(s.name for s in stages)}")
    return Chain(content.get("name") or Path(path).stem, tuple(stages))


def _stage(path: Path | str, base: dict[str, Any], entry: Any, overrides: Sequence[str], earlier: list[str]) -> Stage:
    if not isinstance(entry, dict) or "name" not in entry or entry.get("kind") not in get_args(Kind):
        raise ValueError(f"{path}: a stage needs a name and a kind out of {', '.join(get_args(Kind))}: {entry}")
    name = entry["name"]
    if name in earlier:
        raise ValueError(f"{path} has two stages called {name}: rename one")
    keys = {f.name for f in fields(Stage)} - {"config"} | {"set"}
    for key in entry:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f": did you mean {near[0]}?" if near else f": it may have {', '.join(sorted(keys))}"
            raise ValueError(f"stage {name} of {path} has an unknown key {key}{hint}")
    ours = [o for o in overrides if "/" not in o.split("=")[0]]
    ours += [o.partition("/")[2] for o in overrides if o.split("=")[0].startswith(f"{name}/")]
    layers = [
        (f"in {path}", base),
        (f"in stage {name} of {path}", entry.get("set") or {}),
        ("on the command line", parse_overrides(Config, ours)),
    ]
    stage = Stage(config=build(Config, layers), **{key: value for key, value in entry.items() if key != "set"})
    for needed in stage.inputs():
        if needed not in earlier and needed != stage.evaluator:
            raise ValueError(f"stage {name} of {path} starts from {needed}, which is no stage above it")
    near = difflib.get_close_matches(stage.evaluator, earlier, 1, cutoff=0.8)
    if near and stage.evaluator not in earlier and not Path(stage.evaluator).is_dir():
        raise ValueError(f"stage {name} of {path} has evaluator {stage.evaluator}: did you mean stage {near[0]}?")
    missing = {"coupling": "teacher", "evaluation": "models"}.get(stage.kind)
    if missing and not getattr(stage, missing):
        raise ValueError(f"stage {name} of {path} is a {stage.kind} stage: it needs {missing}")
    if stage.kind == "evaluation" and not stage.evaluator:
        raise ValueError(f"stage {name} of {path} is an evaluation stage: it needs evaluator")
    if stage.config.inputs.init or stage.config.inputs.coupling:
        raise ValueError(f"stage {name} of {path} sets inputs.*: name the stages with init and coupling instead")
    return stage
