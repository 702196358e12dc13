"""Atomic files: written aside, synced, renamed, so that a name stands for a whole file or folder.

A process may die at any instant; a name that a reader looks for only ever stands for a finished
file or folder. Rename within one folder is atomic on POSIX file systems, local and shared.

Names aside are `.NAME.HEX.tmp` for what is being written, of no use once its writer is dead, and
`.NAME.HEX.old.tmp` for a folder on its way out, which may be the only whole one of its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_OLD = re.compile(r"\.(.+)\.[0-9a-f]{32}\.old\.tmp")
LONGEST_NAME = 100
"""Bytes: file systems take 255, and names aside, of logs and of folders are longer than what they are made of."""
_NAME = re.compile(r"[\w+()][\w+(),. -]*")
_LFS = re.compile(rb"version (https://(git-lfs|hawser)\.github\.com/spec/|http://git-media\.io/v/)")
"""The first line of a Git-LFS pointer, with the addresses that it had before."""
_ANNEX = re.compile(rb"/annex/objects/[^\s/]+\s*($|\n)")
"""The first line of a git-annex pointer; a locked file is a link to such a place."""


def sync_paths(*paths: Path) -> None:
    """Wait until files, and the entries of folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_dangling(path: Path) -> None:
    """Check that neither a path nor a folder above it is a link to nowhere: what it leads to may not be mounted.

    Raises:
        ValueError: it is.
    """
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise ValueError(
                f"{place} is a link to {os.readlink(place)}, which is not there: make (or mount) it, or remove the link"
            )


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        ValueError: it would lie behind a link to nowhere.
        OSError: it cannot be made.
    """
    refuse_dangling(folder)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def publish_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, else removed."""
    path = Path(path)
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield aside
        sync_paths(aside)
        os.replace(aside, path)
        sync_paths(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def freeze_text(folder: Path, text: str) -> Path:
    """Keep a text for good in `folder`, in a YAML file named by its hash; returns the file."""
    path = folder / f"{hash_json(text)[:12]}.yaml"
    if not path.exists():
        with publish_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return path


@contextmanager
def publish_dir(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are synced and it is renamed to `path`.

    An older folder of that name is replaced, in this order: rename the old one aside, rename the new one to `path`,
    sync, remove the old one. Whoever is killed before the first rename leaves the old one in place, after the second
    one the new one; in between, the old one waits under its name aside, and the next `publish_dir` of this path or
    `remove_leftovers` of its parent puts it back. On an error the old one stays or is put back, and the temporary
    folder is removed.
    """
    path = Path(path)
    refuse_dangling(path)
    make_folder(path.parent)
    _settle(path.parent, path.name)
    mark = uuid.uuid4().hex
    aside, old = (path.with_name(f".{path.name}.{mark}.{ending}") for ending in ("tmp", "old.tmp"))
    aside.mkdir()
    try:
        yield aside
        sync_paths(*aside.rglob("*"), aside)
        if path.is_dir():
            os.replace(path, old)
        os.replace(aside, path)
        sync_paths(path.parent)
    finally:
        _settle(path.parent, path.name)
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path | str) -> None:
    """Remove what killed writers left aside in `folder`; call it only while no writer can be alive.

    An old folder that a killed `publish_dir` had moved aside is put back if nothing took its place.
    """
    folder = Path(folder)
    _settle(folder)
    for aside in folder.glob(".*.tmp"):
        _remove(aside)


def _settle(parent: Path, only: str | None = None) -> None:
    """Put back or remove old folders that were moved aside: of every name in `parent`, or of one."""
    # Listed first: if by now there is a folder of that name, it came after the one aside, also with other writers.
    for old in list(parent.glob(".*.old.tmp")):
        found = _OLD.fullmatch(old.name)
        if found is None or only not in (None, found[1]):
            continue
        with suppress(FileNotFoundError):  # another writer has settled it meanwhile
            if (parent / found[1]).exists():
                _remove(old)
            else:
                os.replace(old, parent / found[1])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def check_name(name: object, what: str) -> str:
    """`name`, if it can be part of a file's name.

    Args:
        what: what it names, for the message.

    Raises:
        ValueError: it is no text, is empty, or has signs that file systems, shells or `stage/key=value` read.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} is {name!r}: give it as text, in quotes")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} is {name!r}, which cannot be part of a file's name: use letters, digits, spaces and _+-,.() "
            "and begin with a letter or digit"
        )
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"{what} is {size} bytes long: take {LONGEST_NAME} or fewer")
    return name


def is_file_or_annexed(path: Path) -> bool:
    """Whether a path is a file, or the link that git-annex leaves in the place of one that was not fetched."""
    return path.is_file() or (path.is_symlink() and "/annex/objects/" in os.readlink(path) and not path.exists())


def refuse_lfs_pointers(*paths: Path | str) -> None:
    """Check that files are not what Git, with LFS or annex, leaves in the place of a large file that was not fetched.

    Args:
        paths: files, or folders whose files are looked at; what is not there is passed over.

    Raises:
        ValueError: one is a pointer.
    """
    for path in map(Path, paths):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            head = b""
            if file.is_file():
                with open(file, "rb") as handle:
                    head = handle.read(1024).removeprefix(b"\xef\xbb\xbf")
            if _LFS.match(head):
                raise ValueError(f"{file} is a Git-LFS pointer, not the file itself: run git lfs pull where it lies")
            if _ANNEX.match(head) or (is_file_or_annexed(file) and not file.is_file()):
                raise ValueError(f"{file} is a git-annex pointer, not the file itself: run git annex get where it lies")


def refuse_no_objects(*paths: Path | str) -> None:
    """Check that files of other people's settings that are JSON are objects: their readers take that for granted.

    Args:
        paths: what is not there, or no JSON, is passed over; its reader says so.

    Raises:
        ValueError: one is something else.
    """
    for path in map(Path, paths):
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if not isinstance(found, dict):
            raise ValueError(f"{path} is no JSON object: replace it")


def write_json(path: Path | str, value: Any) -> None:
    """Publish `value` as indented JSON."""
    with publish_file(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file that its reader cannot do without.

    Raises:
        ValueError: the file is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        refuse_lfs_pointers(path)
        raise ValueError(f"{path} is not readable JSON ({error}): remove it and make it again") from None


def read_record(path: Path | str, kind: type = dict, **fields: type) -> Any:
    """Read a JSON file that we wrote and can write again; None where there is none, or no whole one.

    A power cut may leave a file empty, cut off or full of NULs for all that it was synced. Such a record counts as not
    there: its reader does what it does before the record is written for the first time.

    Args:
        kind: what the record is; anything else is not whole either.
        fields: what its reader takes out of a dict, and what that is.

    Raises:
        ValueError: it is a Git-LFS pointer, and so whole elsewhere.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        refuse_lfs_pointers(path)
        return None
    except FileNotFoundError:
        return None
    return found if isinstance(found, kind) and has_fields(found, fields) else None


def has_fields(record: Any, fields: Mapping[str, type]) -> bool:
    """Whether a dict has entries of these names and types."""
    return all(isinstance(record.get(name), kind) for name, kind in fields.items())


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of `value` as canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
