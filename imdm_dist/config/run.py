"""The settings of one run: those of its file and its command line, or of its folder, which remembers them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imdm_dist.config.load import from_dict, load_config, load_over
from imdm_dist.config.schema import Config
from imdm_dist.files import read_json

RECORD = "config.json"
"""Settings of a run, in its folder."""


def load_run(folder: Path | str, path: str | None, overrides: Sequence[str]) -> Config:
    """The settings of the run in `folder`: a file's, or else those it was begun with if it was, or else the defaults;
    overrides win.

    Raises:
        ValueError: as `load_config`.
    """
    record = Path(folder) / RECORD
    if path is not None or not record.is_file():
        return load_config(Config, path, overrides)
    return load_over(from_dict(Config, read_json(record)["config"], where=str(record)), None, overrides)
