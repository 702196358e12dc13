"""Where text comes from: which files, hub data set or embedded corpus a split is, and what tells it from another."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from imdm_dist.config.data import DataConfig
from imdm_dist.data.digest import file_digests
from imdm_dist.data.embedded import embedded_digest
from imdm_dist.data.text_file import KINDS, TextFile, has_known_ending, kind_of
from imdm_dist.files import is_file_or_annexed, refuse_lfs_pointers

Split = Literal["train", "valid"]
_HUB_SPLITS: dict[Split, str] = {"train": "train", "valid": "validation"}
_NAMED = 3
"""Names that a message lists; the rest are counted."""


def data_root(config: DataConfig) -> tuple[Path, str]:
    """The folder that relative names start from, and where it was set."""
    if config.root:
        return Path(config.root), "data.root"
    if os.environ.get("IMDM_DATA"):
        return Path(os.environ["IMDM_DATA"]), "IMDM_DATA"
    return Path.cwd(), "the working folder, as neither data.root nor IMDM_DATA is set"


def names_of(config: DataConfig, split: Split) -> tuple[tuple[str, ...], str]:
    """What is given for a split, and the setting that gives it."""
    if split == "valid" and not config.valid_share:
        return config.valid, "data.valid"
    return config.train, "data.train"


def resolve_files(config: DataConfig, split: Split) -> list[Path]:
    """The files of a split, in the order given; those of one glob by name, those of a folder by path.

    Raises:
        ValueError: a name matches no file, or one that is no text or not there in truth; or all files are empty.
    """
    root, origin = data_root(config)
    names, setting = names_of(config, split)
    files: list[Path] = []
    for given in names:
        given = os.path.expanduser(given)
        if (root / given).is_dir():
            files += _files_below(root / given, f"{setting} names {given}")
            continue
        matches = (
            [given] if is_file_or_annexed(root / given) else sorted(glob.glob(given, root_dir=root, recursive=True))
        )
        found = [root / one for one in matches if is_file_or_annexed(root / one)]
        if not found:
            raise ValueError(
                f"{setting} names {given}, which is no file under {root} ({origin}): "
                "correct the name, or set data.root or IMDM_DATA to the folder that holds it"
            )
        files += found
    try:
        for path in files:
            refuse_lfs_pointers(path)
            kind_of(path)
            TextFile(path).refuse_other_kinds()
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from None
    if all(path.stat().st_size == 0 for path in files):
        some = some_of([shown(config, path) for path in files])
        raise ValueError(f"{setting}: {some} {'is' if len(files) == 1 else 'are'} empty: give files with text")
    return files


def _files_below(folder: Path, what: str) -> list[Path]:
    """The files of text in a folder and the folders in it, by path; hidden ones are passed over."""
    below = sorted(path for path in folder.rglob("*") if is_file_or_annexed(path))
    seen = [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    found = [path for path in seen if has_known_ending(path)]
    if not found:
        raise ValueError(f"{what}, a folder without {', '.join(KINDS)} files: name the files, or a glob of them")
    return found


def some_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def shown(config: DataConfig, path: Path) -> str:
    """A file's name for messages, which tells it from others of its split: from the root that relative ones have."""
    root = data_root(config)[0]
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def hub_split(config: DataConfig, split: Split) -> str:
    """The split of the hub data set to read.

    Raises:
        ValueError: more than one is named.
    """
    given, setting = names_of(config, split)
    if len(given) > 1:
        raise ValueError(f"{setting} names {len(given)} hub splits: name one, e.g. {setting}=[train[:-100000]]")
    return given[0] if given else _HUB_SPLITS["train" if config.valid_share else split]


def source_identity(config: DataConfig, split: Split) -> list[Any]:
    """What tells one text from another, as JSON values without any folder of this machine.

    For files: name, size and a hash of every byte (see `file_digests`); for the embedded English: a hash of it.
    """
    if config.source == "files":
        files = resolve_files(config, split)
        digests = file_digests(files, Path(config.cache), names_of(config, split)[1])
        return [[path.name, path.stat().st_size, digest] for path, digest in zip(files, digests, strict=True)]
    if config.source == "hub":
        return [config.name, hub_split(config, split)]
    return ["embedded", embedded_digest(split, config.cache)]


def say_repeated(config: DataConfig, identity: dict[Split, list[Any]]) -> None:
    """Say on stderr which files count more than once, by their content: within a split, or for both."""
    if config.source != "files":
        return
    names: dict[Split, dict[str, list[str]]] = {split: {} for split in identity}
    for split, files in identity.items():
        for path, (_, size, digest) in zip(resolve_files(config, split), files, strict=True):
            if size:
                names[split].setdefault(digest, []).append(shown(config, path))
        again = [" = ".join(same) for same in names[split].values() if len(same) > 1]
        if again and not (split == "valid" and config.valid_share):
            print(f"data.{split} holds the same text more than once: {some_of(again)}", file=sys.stderr)
    both = [same[0] for digest, same in names["valid"].items() if digest in names["train"]]
    if both and not config.valid_share:
        print(
            f"data.valid holds files that data.train holds too: {some_of(both)}; figures of validation will be "
            "those of text that was trained on",
            file=sys.stderr,
        )
