"""Where a batch job finds this package, and the file of shell settings that a site's user writes."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent.parent
"""The folder that this package is in, for PYTHONPATH: the checkout, or site-packages."""
JOB = Path(__file__).with_name("job.sh")
"""Batch script of a chain's jobs, part of the package."""


def site_home() -> Path:
    """The folder whose slurm/site.sh every job sources: IMDM_HOME, or the checkout, or, of an installed package, the
    folder that a job is submitted in."""
    if given := os.environ.get("IMDM_HOME"):
        return Path(given).absolute()
    return PACKAGE if (PACKAGE / "slurm" / "environment.sh").exists() else Path.cwd()
