"""Survey of a chain: which stages are whole, half done, damaged or missing, and why. Nothing is made here.

A stage's folder is content-addressed: it is named by a hash of the stage's settings and of its inputs' digests. So a
stage whose settings or inputs change gets a folder of its own beside the old one. The completion record `stage.json` is
written last, so that a stage without one is not whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imdm_dist.chain.chain import Chain
from imdm_dist.chain.identity import stage_identity
from imdm_dist.chain.stage import Stage
from imdm_dist.data.prepare import NotPreparedError
from imdm_dist.error_boundary import in_a_line
from imdm_dist.files import has_fields, hash_json, read_record

COMPLETION = "stage.json"
UNPREPARED = "without prepared data"
State = Literal["whole", "half done", "damaged", "missing", "waiting"]
"""`waiting`: what it starts from, or its data, is not there yet, so that its folder has no name yet."""


def read_completion(folder: Path) -> dict[str, Any] | None:
    """The completion record of a stage; None where it is not whole."""
    record: dict[str, Any] | None = read_record(
        folder / COMPLETION, identity=dict, digest=str, inputs=dict, text=dict, versions=dict
    )
    return record if record and has_fields(record["identity"], {"kind": str, "settings": dict}) else None


@dataclass(frozen=True)
class StageState:
    """How a stage stands."""

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


def stage_state(
    chain: Chain, stage: Stage, home: Path, digests: dict[str, str], quick: bool = False, may_build: bool = True
) -> StageState:
    """Find a stage.

    Args:
        home: folder of the chain.
        digests: those of the whole stages above it, by name.
        quick: believe what lists of files say, instead of reading every file.
        may_build: build data that are missing; else the stage waits for them.
    """
    given = stage.given_folder()
    if given is not None:
        return _given_state(stage, given, quick)
    inputs = chain.inputs(stage)
    lacking = [name for name in inputs if name not in digests]
    if lacking:
        return StageState(stage, "waiting", f"needs {', '.join(lacking)}")
    try:
        identity = stage_identity(stage, {name: digests[name] for name in inputs}, may_build)
    except NotPreparedError:
        return StageState(stage, "waiting", UNPREPARED)
    except ValueError as error:  # of its text or tokenizer
        return StageState(stage, "waiting", in_a_line(error))
    folder = home / f"{stage.name}-{hash_json(identity)[:8]}"
    record = read_completion(folder)
    if record is None:
        started = folder.exists()
        why = "was cut off" if started else explain(identity, home, stage.name)
        return StageState(stage, "half done" if started else "missing", why, folder, identity)
    try:
        found = stage.claimed_digest(folder) if quick else stage.digest(folder)
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError) and not quick:
            raise  # what may not be read is not damaged, and is not to be made again
        found = str(error)
    digest = record["digest"]
    if found != digest:
        return StageState(stage, "damaged", f"its result in {folder.name} is damaged ({found})", folder, identity)
    return StageState(stage, "whole", "", folder, identity, digest)


def survey(chain: Chain, home: Path, quick: bool = False) -> dict[str, StageState]:
    """Find all stages by name; nothing is built."""
    found: dict[str, StageState] = {}
    digests: dict[str, str] = {}
    for stage in chain.stages:
        found[stage.name] = stage_state(chain, stage, home, digests, quick, may_build=False)
        if found[stage.name].state == "whole":
            digests[stage.name] = found[stage.name].digest
    return found


def _given_state(stage: Stage, folder: Path, quick: bool) -> StageState:
    try:
        digest = stage.claimed_digest(folder) if quick else stage.digest(folder)
    except (OSError, ValueError) as error:
        return StageState(stage, "missing", f"is to be given: {in_a_line(error)}", folder)
    return StageState(stage, "whole", "", folder, digest=digest)


def explain(identity: dict[str, Any], home: Path, name: str) -> str:
    """Why a stage that is not there has to be made: what is new against the last time it was."""
    # A stage called NAME-x has folders that begin alike.
    paths = [
        path for path in home.glob(f"{name}-*/{COMPLETION}") if path.parent.name.removeprefix(f"{name}-").isalnum()
    ]
    paths.sort(key=lambda path: path.stat().st_mtime)
    made = [record for path in paths if (record := read_completion(path.parent))]
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
