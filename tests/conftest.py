"""The surroundings of every test: no network, few threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402  (the libraries read the variables above when they are imported)

torch.set_num_threads(1)  # these models are too small for more, and other processes may want the cores

from imdm_dist import signals  # noqa: E402
from tests.ranks import Ranks  # noqa: E402


@pytest.fixture(autouse=True)
def signals_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands that a test runs in this process heed signals from then on, as is right for a process of their own."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    monkeypatch.setattr(signals, "_cause", None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
