"""Processes that stay up for many tests: importing the libraries takes seconds for each."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from imdm_dist.parallel.environment import LaunchedProcess


class Ranks:
    """A world of processes on this machine, joined by gloo.

    Args:
        world: how many.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        context = multiprocessing.get_context("spawn")
        meeting = f"file://{tempfile.mkdtemp()}/meet"
        ends = [context.Pipe() for _ in range(world)]
        self._pipes = [ours for ours, _ in ends]
        self._processes = [
            context.Process(target=_serve, args=(LaunchedProcess(rank, world, rank, meeting), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 300.0) -> list[Any]:
        """Call `function(place, *arguments)` in all processes; their results by rank.

        Raises:
            AssertionError: one of them raised, or took too long; the world is gone then.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results: list[Any] = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(timeout):
                self.close()
                raise AssertionError(f"rank {rank} of {self.world} did not answer in {timeout} s")
            worked, value = pipe.recv()
            if not worked:
                self.close()
                raise AssertionError(f"rank {rank} of {self.world}:\n{value}")
            results.append(value)
        return results

    @property
    def alive(self) -> bool:
        """Whether the world can still be used."""
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(place: LaunchedProcess, pipe: Connection) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOCAL_RANK": str(place.local_rank)}
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # the tests are over
            return
        try:
            pipe.send((True, function(place, *arguments)))
        except (Exception, SystemExit):
            pipe.send((False, traceback.format_exc()))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
