"""English that every CPython carries: the topics of its `help()` and the docstrings of its library.

The default corpus: about two megabytes, no download. Sources are parsed, never imported. What comes
out depends on the Python version alone, so the version is part of the data's identity.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

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


@cache
def _documents() -> dict[str, str]:
    """Text by name (`topic/...` or `module/...`), in the order of the names."""
    from pydoc_data.topics import topics

    library = Path(sysconfig.get_paths()["stdlib"])
    found = {f"topic/{name}": _tidy(text) for name, text in topics.items()}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        if _SKIPPED_FOLDERS.isdisjoint(parts) and parts[0] != "pydoc_data":
            found["module/" + ".".join(parts)] = _tidy("\n\n".join(_docstrings(path.read_bytes())))
    return {name: found[name] for name in sorted(found) if len(found[name]) > _SHORTEST}


def read_embedded(split: Literal["train", "valid"]) -> list[str]:
    """The embedded corpus, one document for each topic and module.

    About one document in twenty, chosen by the hash of its name, is for validation.
    """
    return [text for name, text in _documents().items() if _is_valid(name) == (split == "valid")]
