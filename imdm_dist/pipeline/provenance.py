"""What a result was made from, back to the text and the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdm_dist.files import read_record
from imdm_dist.pipeline.survey import MARK

IMPORTED = "import.json"


def provenance(folder: Path | str) -> str:
    """The whole history of a stage's folder as text: settings, seeds, versions, text, and the same of its inputs.

    Raises:
        ValueError: the folder is not that of a whole stage.
    """
    folder = Path(folder)
    if read_record(folder / MARK) is None:
        raise ValueError(f"{folder} has no {MARK}: give the folder of a whole stage, such as tools/pipeline.py lists")
    return "\n".join(_history(folder, 0, set()))


def _history(folder: Path, depth: int, told: set[Path]) -> Iterator[str]:
    gap = "    " * depth
    mark = read_record(folder / MARK)
    if mark is None:
        yield f"{gap}{folder.name}: its folder is gone, or its {MARK}"
        return
    identity = mark["identity"]
    yield f"{gap}{folder.name}: {identity['kind']}, digest {mark['digest'][:16]}"
    if folder.resolve() in told:
        yield f"{gap}  (as above)"
        return
    told.add(folder.resolve())
    yield f"{gap}  code: {', '.join(f'{name} {version}' for name, version in mark['versions'].items())}"
    for name, value in identity["settings"].items():
        yield f"{gap}  {name}: {json.dumps(value)}"
    for split, settings in mark["text"].items():
        yield f"{gap}  {split} text: {_text(settings)}"
    for name, where in mark["inputs"].items():
        yield f"{gap}  from {name}:"
        if Path(where).name != where:
            yield from _given(Path(where), depth + 1, told)
        else:
            yield from _history(folder.parent / where, depth + 1, told)


def _text(settings: dict[str, Any]) -> str:
    """What rows were made from: how they were read, then name, size and hash of each file."""
    about = {key: value for key, value in settings.items() if key not in ("text", "split", "format")}
    return f"{json.dumps(about)}, files {json.dumps(settings.get('text', []))}"


def _given(folder: Path, depth: int, told: set[Path]) -> Iterator[str]:
    gap = "    " * depth
    if imported := read_record(folder / IMPORTED):
        yield f"{gap}imported: {json.dumps(imported)}"
    elif (folder / MARK).exists():
        yield from _history(folder, depth, told)
    else:
        yield f"{gap}a run that was given: {folder.name}"
        if about := read_record(folder / "config.json"):
            yield f"{gap}  provenance: {json.dumps(about['provenance'])}"
            yield f"{gap}  seed: {about['config']['train']['seed']}, versions: {json.dumps(about['versions'])}"
