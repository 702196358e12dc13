"""What the processes of a stage are told, in a file; `stage_process` is such a process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imdm_dist.files import hash_json, publish_file, read_record, write_json

OVERRIDES = "overrides.json"
ORDERS = "orders"


def freeze(text: str, home: Path) -> Path:
    """Keep a chain's text as it is now, whatever becomes of the file it came from; returns where."""
    path = home / "chains" / f"{hash_json(text)[:12]}.yaml"
    if not path.exists():
        with publish_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return path


def remember(home: Path, overrides: Sequence[str]) -> None:
    """Keep the settings that a chain was last asked for with, beside its file's."""
    if remembered(home) != list(overrides):
        write_json(home / OVERRIDES, list(overrides))


def remembered(home: Path) -> list[str]:
    """Those settings; none if the chain was never asked for, or their record is not whole."""
    found = read_record(home / OVERRIDES, list) or []
    return found if all(isinstance(one, str) for one in found) else []


def write_order(home: Path, chain: Path, stage: str, folders: Mapping[str, Path]) -> Path:
    """Write what the processes of a stage are to do, and which job starts them; returns the file.

    Args:
        chain: its file, with all settings resolved.
        folders: of the stage and of all that it starts from, by name.
    """
    path = home / ORDERS / f"{folders[stage].name}.json"
    places = {name: str(folder) for name, folder in folders.items()}
    write_json(path, {"chain": str(chain), "stage": stage, "folders": places, **_this_job()})
    return path


def _this_job() -> dict[str, str]:
    """The job of this process, of an array the whole, and its log; both empty outside of SLURM."""
    have = os.environ
    job = have.get("SLURM_ARRAY_JOB_ID") or have.get("SLURM_JOB_ID", "")
    try:
        log = os.readlink("/proc/self/fd/2") if job else ""
    except OSError:
        log = ""
    return {"job": job, "log": log if os.path.isfile(log) else ""}
