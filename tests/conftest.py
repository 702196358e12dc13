"""The surroundings of every test: no network, few threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402  (the libraries read the variables above when they are imported)

torch.set_num_threads(1)  # these models are too small for more, and other processes may want the cores

from tests.ranks import Ranks  # noqa: E402


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], Ranks]]:
    """Worlds of processes by size, started when they are first asked for."""
    worlds: dict[int, Ranks] = {}

    def world(size: int) -> Ranks:
        if size not in worlds or not worlds[size].alive:
            worlds[size] = Ranks(size)
        return worlds[size]

    yield world
    for made in worlds.values():
        made.close()
