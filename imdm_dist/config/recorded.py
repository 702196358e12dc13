"""The settings of one run: from a file and the command line, or as recorded in its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from imdm_dist import run_files
from imdm_dist.config.load import from_dict, load_config, load_over
from imdm_dist.config.schema import Config
from imdm_dist.files import read_record


def load_run(folder: Path | str, path: str | None, overrides: Sequence[str]) -> Config:
    """The settings of the run in `folder`: a file's, or else those it was begun with if it was, or else the defaults;
    overrides win.

    Raises:
        ValueError: as `load_config`; or nothing in the folder has them any more.
    """
    record = Path(folder) / run_files.CONFIG
    if path is not None or not record.is_file():
        return load_config(Config, path, overrides)
    return load_over(_remembered(record), None, overrides)


def _remembered(record: Path) -> Config:
    """The settings in a run's record, which its checkpoints repeat."""
    for place in (record, *sorted(record.parent.glob(f"{run_files.CHECKPOINT}*/{run_files.STATE}"), reverse=True)):
        if (found := read_record(place, config=dict)) is not None:
            if place != record:
                print(f"{record} is damaged: the settings are those of {place}", file=sys.stderr)
            return from_dict(Config, found["config"], where=str(place))
    raise ValueError(f"{record} is damaged, and no checkpoint has the run's settings: give them again by --config")
