"""Provenance of a stage's result: what it was made from, back to the text and the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdm_dist import run_files
from imdm_dist.chain.survey import COMPLETION, read_completion
from imdm_dist.files import read_record

IMPORTED = "import.json"
LONG = 60
"""Characters of a value from which on it is said once."""
Told = dict[str, str]
"""Folders and long values that have been told, and the folder where."""


def provenance(folder: Path | str) -> str:
    """The whole history of a stage's folder as text: settings, seeds, versions, text, and the same of its inputs.

    Raises:
        ValueError: the folder is not that of a whole stage.
    """
    folder = Path(folder)
    if read_completion(folder) is None:
        raise ValueError(
            f"{folder} has no {COMPLETION}: give the folder of a whole stage, such as imdm_dist status lists"
        )
    return "\n".join(_history(folder, 0, {}))


def _history(folder: Path, depth: int, told: Told) -> Iterator[str]:
    gap = "    " * depth
    record = read_completion(folder)
    if record is None:
        yield f"{gap}{folder.name}: its folder is gone, or its {COMPLETION}"
        return
    identity = record["identity"]
    yield f"{gap}{folder.name}: {identity['kind']}, digest {record['digest'][:16]}"
    if str(folder.resolve()) in told:
        yield f"{gap}  (as above)"
        return
    told[str(folder.resolve())] = folder.name
    code = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield f"{gap}  code: {_once(code, folder, told)}"
    for name, value in identity["settings"].items():
        yield f"{gap}  {name}: {_once(json.dumps(value), folder, told)}"
    for split, settings in record["text"].items():
        yield f"{gap}  {split} text: {_once(_text(settings), folder, told)}"
    for name, where in record["inputs"].items():
        yield f"{gap}  from {name}:"
        if Path(where).name != where:
            yield from _given(Path(where), depth + 1, told)
        else:
            yield from _history(folder.parent / where, depth + 1, told)


def _once(value: str, folder: Path, told: Told) -> str:
    """A value, or which folder above had the same if it is long."""
    if len(value) <= LONG:
        return value
    first = told.setdefault(value, folder.name)
    return value if first == folder.name else f"as {first}"


def _text(settings: dict[str, Any]) -> str:
    """What rows were made from: how they were read, then name, size and hash of each file."""
    about = {key: value for key, value in settings.items() if key not in ("text", "split", "format")}
    return f"{json.dumps(about)}, files {json.dumps(settings.get('text', []))}"


def _imported(report: dict[str, Any]) -> str:
    """The account of an import, without its lists of every tensor."""
    return json.dumps({key: len(value) if key in ("used", "renamed") else value for key, value in report.items()})


def _given(folder: Path, depth: int, told: Told) -> Iterator[str]:
    gap = "    " * depth
    if imported := read_record(folder / IMPORTED):
        yield f"{gap}imported: {_imported(imported)}"
    elif (folder / COMPLETION).exists():
        yield from _history(folder, depth, told)
    else:
        yield f"{gap}a run that was given: {folder.name}"
        if about := read_record(folder / run_files.CONFIG, config=dict, provenance=dict, versions=dict):
            yield f"{gap}  provenance: {json.dumps(about['provenance'])}"
            yield f"{gap}  seed: {about['config']['train']['seed']}, versions: {json.dumps(about['versions'])}"
