"""Processes that are forked off a server which has imported the libraries once: each begins in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from imdm_dist.training.metrics import read_metrics
from tests.ranks import free_port

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
"""Its server has what a training run and a rollout worker import; pandas is what pyarrow looks for."""
CONTEXT.set_forkserver_preload(
    ["imdm_dist.training.loop", "imdm_dist.parallel.groups", "imdm_dist.parallel.tensor_parallel"]
    + ["imdm_dist.coupling", "pandas"]
)
TINY = [
    "model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2", "data.source=synthetic",
    "train.global_batch=8", "train.log_every=1",
]  # fmt: skip


class Launch:
    """Processes of tools/train.py with a tiny model, joined as torchrun would join them.

    Args:
        cache: of the data.
        settings: come after those of the tiny model.
        patches: code that a rank runs before the tool, by rank.
    """

    def __init__(
        self, folder: Path, cache: Path, *settings: str, world: int = 2, patches: dict[int, str] | None = None
    ) -> None:
        port = str(free_port())
        arguments = [str(folder), *TINY, f"data.cache={cache}", *settings]
        self._errors = [Path(tempfile.mkstemp(suffix=f"-rank-{rank}")[1]) for rank in range(world)]
        self.processes: list[ForkServerProcess] = []
        for rank, errors in enumerate(self._errors):
            ranks = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            patch = (patches or {}).get(rank, "")
            self.processes.append(
                CONTEXT.Process(target=_train, args=(arguments, ranks if world > 1 else {}, errors, patch))
            )
            self.processes[-1].start()

    def signal(self, rank: int, number: int) -> None:
        """Send a signal to a process."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Wait until the run has logged a step."""
        until = time.monotonic() + 120
        while not any(line["step"] >= step for line in read_metrics(folder)):
            assert time.monotonic() < until and self.processes[0].is_alive(), self.end(1)
            time.sleep(0.02)

    def end(self, timeout: float = 120.0) -> tuple[list[int | None], list[str]]:
        """Exit codes and what was printed on stderr, by rank; those that go on are killed."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        for process in self.processes:
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes], [path.read_text() for path in self._errors]


def _train(arguments: list[str], ranks: dict[str, str], errors: Path, patch: str) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | ranks
    os.chdir(ROOT)
    import torch

    torch.set_num_threads(1)
    exec(patch, {})
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(ROOT / "tools" / "train.py"), run_name="__main__")
