"""Versions of the code and of the libraries that shape numbers, for the provenance of results."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from imdm_dist import __version__

LIBRARIES = ("torch", "deepspeed", "megatron-core", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")


@cache
def code_version() -> str:
    """Package version and, in a git checkout, its commit, with a plus sign where files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return __version__
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return __version__
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    return f"{__version__}+{commit.stdout.strip()}{'+' if changed else ''}"


@cache
def versions() -> dict[str, str]:
    """Versions by name: imdm_dist, python and the installed libraries that shape numbers."""
    found = {"imdm_dist": code_version(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
