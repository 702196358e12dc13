"""What of a chain is there, what is not, and why: nothing is made here.

A stage's folder is named by a hash of its settings and of what its inputs turned out to be. So a stage whose settings
or inputs change gets a folder of its own beside the old one. `stage.json`, written last, marks a whole stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imdm_dist.chain.chain import Chain, Stage
from imdm_dist.chain.identity import claimed_digest, given_state, result_digest, stage_identity
from imdm_dist.cli import in_a_line
from imdm_dist.data.prepare import NotPreparedError
from imdm_dist.files import has_fields, hash_json, read_record

MARK = "stage.json"
UNPREPARED = "without prepared data"
State = Literal["whole", "half done", "damaged", "missing", "waiting"]
"""`waiting`: what it starts from, or its data, is not there yet, so that its folder has no name yet."""


def read_mark(folder: Path) -> dict[str, Any] | None:
    """What marks a whole stage; None where it is not."""
    mark: dict[str, Any] | None = read_record(
        folder / MARK, identity=dict, digest=str, inputs=dict, text=dict, versions=dict
    )
    return mark if mark and has_fields(mark["identity"], {"kind": str, "settings": dict}) else None


@dataclass(frozen=True)
class Found:
    """A stage as it was found."""

    stage: Stage
    state: State
    why: str = ""
    """What is to be said of a stage that is not whole."""
    folder: Path | None = None
    """Where it is or will be; None while it waits."""
    identity: dict[str, Any] | None = None
    """What its result depends on; None while it waits."""
    digest: str = ""
    """What identifies its result, once it is whole."""


def look(
    chain: Chain, stage: Stage, home: Path, digests: dict[str, str], quick: bool = False, may_build: bool = True
) -> Found:
    """Find a stage.

    Args:
        home: folder of the chain.
        digests: those of the whole stages above it, by name.
        quick: believe what lists of files say, instead of reading every file.
        may_build: build data that are missing; else the stage waits for them.
    """
    if stage.kind == "given":
        return _look_at_given(stage, quick)
    inputs = chain.inputs(stage)
    lacking = [name for name in inputs if name not in digests]
    if lacking:
        return Found(stage, "waiting", f"needs {', '.join(lacking)}")
    try:
        identity = stage_identity(stage, {name: digests[name] for name in inputs}, may_build)
    except NotPreparedError:
        return Found(stage, "waiting", UNPREPARED)
    except ValueError as error:  # of its text or tokenizer
        return Found(stage, "waiting", in_a_line(error))
    folder = home / f"{stage.name}-{hash_json(identity)[:8]}"
    mark = read_mark(folder)
    if mark is None:
        started = folder.exists()
        why = "was cut off" if started else explain(identity, home, stage.name)
        return Found(stage, "half done" if started else "missing", why, folder, identity)
    try:
        found = (claimed_digest if quick else result_digest)(stage, folder)
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError) and not quick:
            raise  # what may not be read is not damaged, and is not to be made again
        found = str(error)
    digest = mark["digest"]
    if found != digest:
        return Found(stage, "damaged", f"its result in {folder.name} is damaged ({found})", folder, identity)
    return Found(stage, "whole", "", folder, identity, digest)


def survey(chain: Chain, home: Path, quick: bool = False) -> dict[str, Found]:
    """Find all stages by name; nothing is built."""
    found: dict[str, Found] = {}
    digests: dict[str, str] = {}
    for stage in chain.stages:
        found[stage.name] = look(chain, stage, home, digests, quick, may_build=False)
        if found[stage.name].state == "whole":
            digests[stage.name] = found[stage.name].digest
    return found


def _look_at_given(stage: Stage, quick: bool) -> Found:
    folder = Path(stage.config.inputs.init)
    setting = f"{stage.name}/inputs.init"
    try:
        given_state(folder, setting)
        digest = (claimed_digest if quick else result_digest)(stage, folder)
    except (OSError, ValueError) as error:
        return Found(stage, "missing", f"is to be given: {in_a_line(error)}", folder)
    return Found(stage, "whole", "", folder, {"kind": "given", "inputs": {}}, digest)


def explain(identity: dict[str, Any], home: Path, name: str) -> str:
    """Why a stage that is not there has to be made: what is new against the last time it was."""
    # A stage called NAME-x has folders that begin alike.
    marks = [path for path in home.glob(f"{name}-*/{MARK}") if path.parent.name.removeprefix(f"{name}-").isalnum()]
    made = [mark for path in sorted(marks, key=lambda path: path.stat().st_mtime) if (mark := read_mark(path.parent))]
    if not made:
        return "was never made"
    last = made[-1]["identity"]
    changes = [f"{key} was {_short(old)}, is {_short(new)}" for key, old, new in differences(last, identity)]
    return "made anew: " + "; ".join(changes)


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two identities differ, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            below = name if key in ("", "settings") else f"{key}.{name}"
            yield from differences(old.get(name), new.get(name), below)
    elif old != new:
        yield key, old, new


def _short(value: Any) -> str:
    """A value in a message; of long ones, such as digests, the beginning."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:8] + "..."
