"""The embedded corpus, English that every CPython carries: topics of its `help()`, docstrings of its library.

The default corpus: about two megabytes, no download. Sources are parsed, never imported. Another Python
has another text, also another build of one version, so a digest of the text is part of the data's identity.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from imdm_dist.files import hash_json, read_record, write_json

_SKIPPED_FOLDERS = frozenset({"test", "tests", "site-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip"})
_SHORTEST = 200
"""Characters below which a document is left out."""
_VALID_SHARE = 0.05


def _docstrings(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = ast.get_docstring(node, clean=False)
            if found:
                yield inspect.cleandoc(found)


def _tidy(text: str) -> str:
    """One line for each paragraph; without rules, doctests and runs of spaces."""
    lines = [line if re.search(r"[A-Za-z]", line) or not line.strip() else "" for line in text.splitlines()]
    kept = [line for line in lines if not line.lstrip().startswith((">>>", "..."))]
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(kept)))
    return "\n".join(part for part in paragraphs if part)


def _is_valid(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) < _VALID_SHARE * 2**32


def _sources() -> Iterator[tuple[str, Path]]:
    """Dotted name and path of the library's modules, in the order of folders and names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for folder, below, files in os.walk(library):
        below[:] = sorted(set(below) - _SKIPPED_FOLDERS)
        for path in (Path(folder, file) for file in sorted(files) if file.endswith(".py")):
            yield ".".join(path.relative_to(library).with_suffix("").parts), path


@cache
def _documents() -> dict[str, str]:
    """Text by name (`topic/...` or `module/...`), in the order of the names."""
    from pydoc_data.topics import topics

    found = {f"topic/{name}": _tidy(text) for name, text in topics.items()}
    for name, path in _sources():
        if not name.startswith("pydoc_data."):
            found[f"module/{name}"] = _tidy("\n\n".join(_docstrings(path.read_bytes())))
    return {name: found[name] for name in sorted(found) if len(found[name]) > _SHORTEST}


def read_embedded(split: Literal["train", "valid"]) -> list[str]:
    """The embedded corpus, one document for each topic and module.

    About one document in twenty, chosen by the hash of its name, is for validation.
    """
    return [text for name, text in _documents().items() if _is_valid(name) == (split == "valid")]


def embedded_digest(split: Literal["train", "valid"], folder: Path | str) -> str:
    """SHA-256 of a split's text, in hex.

    Args:
        folder: where the digest is kept, under a hash of what the text is made from: to parse that takes
            seconds, to hash it a fiftieth of one.
    """
    kept = Path(folder) / f"embedded-{_sources_digest()[:16]}.json"
    digests = read_record(kept, train=str, valid=str)
    if digests is None:
        digests = {"train": hash_json(read_embedded("train")), "valid": hash_json(read_embedded("valid"))}
        write_json(kept, digests)
    return str(digests[split])


@cache
def _sources_digest() -> str:
    """SHA-256 of the library's sources and of this file's."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, path in _sources():
        digest.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()
