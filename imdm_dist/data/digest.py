"""SHA-256 digests of text files, kept for as long as a file does not change.

A hash is kept under the file's path, size, inode and the times of its last change, those that nobody can set by hand
included. A file that was changed in the last seconds is hashed anew: its times may not show the next change.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imdm_dist.files import hash_json, read_json, write_json

_FOLDER = "digests"
_BLOCK = 2**22
_SETTLED = 2.0
"""Seconds after which every file system gives a change another time than the one before."""
_PATIENCE = 3.0
"""Seconds after which a progress bar appears."""


def file_digests(files: Sequence[Path], cache: Path, label: str) -> list[str]:
    """SHA-256 of the bytes of files, in hex.

    Args:
        cache: where hashes are kept, in a folder of their own; one that is not there, as long as nothing was built,
            or cannot be written costs time alone.
        label: what the files are, for the progress bar.
    """
    kept = {path: cache / _FOLDER / f"{hash_json(_state(path))[:32]}.json" for path in files}
    known = {path: _read(name) for path, name in kept.items() if name.exists()}
    missing = [path for path in kept if known.get(path) is None]
    total = sum(path.stat().st_size for path in missing)
    with tqdm(total=total, desc=f"hashing {label}", unit="B", unit_scale=True, delay=_PATIENCE) as bar:
        for path in missing:
            state, now = _state(path), time.time()
            known[path] = _hash(path, bar)
            info = path.stat()
            if cache.is_dir() and max(info.st_mtime, info.st_ctime) < now - _SETTLED and _state(path) == state:
                with suppress(OSError):
                    write_json(kept[path], known[path])
    return [str(known[path]) for path in files]


def _state(path: Path) -> list[Any]:
    info = path.stat()
    return [str(path.resolve()), info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns]


def _read(name: Path) -> str | None:
    try:
        found = read_json(name)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _hash(path: Path, bar: tqdm) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
