"""The Hugging Face hub: which names are its, the local cache first, and one bounded request where it lacks something.

By itself transformers asks a hub that does not answer again and again, for the best part of a minute a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub.errors import RepositoryNotFoundError

from imdm_dist.problems import first_line

T = TypeVar("T")
TIMEOUT_S = 10.0
"""Seconds to wait for the hub's answer."""


def is_hub_name(name: str) -> bool:
    """Whether `name` may be `model` or `owner/model`: what starts with ., / or ~ or has more slashes is a path."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) is not None


def find(name: str) -> Path | None:
    """The folder of a model in the local cache; None of one that is not there, but known to the hub.

    Raises:
        ValueError: it is neither; the message is the cause alone.
    """
    there = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if isinstance(there, str):
        return Path(there).parent
    ask(name)
    return None


def load(read: Callable[..., T], name: str) -> T:
    """What `read(name, local_files_only=...)` gives: from the local cache or, failing that, from the hub.

    Raises:
        ValueError: it is not in the cache, and the hub does not know it or does not answer; the message is the cause
            alone. What `read` raises for a model that the hub has is passed on.
    """
    try:
        return read(name, local_files_only=True)
    except Exception:  # readers raise what they like for a file they lack
        ask(name)
    return read(name, local_files_only=False)


def ask(name: str) -> None:
    """Check that the hub knows a model.

    Raises:
        ValueError: it does not, or does not answer; the message is the cause alone.
    """
    try:
        huggingface_hub.model_info(name, timeout=TIMEOUT_S)
    except RepositoryNotFoundError:
        raise ValueError("the hub has no such model, or not for everybody") from None
    except Exception as error:  # those of the HTTP library have no base in common with the hub's
        raise ValueError(
            f"it is not whole in the local cache, and the hub does not answer: {first_line(error)}"
        ) from None
