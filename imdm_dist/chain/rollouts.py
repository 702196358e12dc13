"""Rollout workers: processes on this machine, one a core or GPU, that make the shards of a coupling together.

Shape suffixes: B batch, L length, P prompts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imdm_dist.checkpoint.model import load_model
from imdm_dist.config.schema import Config
from imdm_dist.coupling import generate, make_plan
from imdm_dist.coupling.shard import present_shards
from imdm_dist.data import prepare
from imdm_dist.device import default_device
from imdm_dist.diffusion.draw_source import DrawSource
from imdm_dist.diffusion.sampler import sample
from imdm_dist.error_boundary import guarded
from imdm_dist.parallel.environment import this_process
from imdm_dist.registry import SOURCES
from imdm_dist.signals import interrupted

THREADS = 1
"""Torch threads of a CPU worker: fixed, as the last bits of a sum depend on it; more cores are more workers."""


def worker_count(asked: int | None) -> int:
    """The number asked for; without one, a worker for each GPU, or else for each core this process may use. Under a
    launcher of several processes each of them is a worker.

    Raises:
        ValueError: it is below 1.
    """
    if asked is None:
        if this_process().world > 1:
            return 1  # a launcher has started the others
        return torch.cuda.device_count() or len(os.sched_getaffinity(0))
    if asked < 1:
        raise ValueError(f"workers is {asked}: give 1 or more, or leave it out for one a core or GPU")
    return asked


def generate_coupling(
    config: Config, teacher: Path | str, folder: Path | str, workers: int | None, prompts_PL: Tensor | None = None
) -> None:
    """Make the coupling of `config.coupling` in `folder` with the rollouts of `teacher`.

    Args:
        config: sections coupling and data count; data must be what the teacher learned from.
        teacher: run folder or checkpoint.
        workers: processes on this machine, None as `worker_count`; more machines may help by calling the same, and
            so may the processes of a launcher, which need not know of each other.
        prompts_PL: prompts, int64, with the mask id where to generate; needs coupling.kind=plain.

    Raises:
        ValueError: settings, teacher and folder do not fit together, or a worker failed.
    """
    workers = worker_count(workers)
    SOURCES.get(config.coupling.source)  # whatever is wrong is said here, once
    loaded = load_model(teacher, config.coupling.weights)
    if config.coupling.kind == "perturbed":
        loaded.check_data(prepare(config.data))
    context = multiprocessing.get_context("spawn")
    work = _Rollouts(config, str(teacher), str(folder), prompts_PL, workers)
    helpers = [context.Process(target=_help, args=(work, number), daemon=True) for number in range(1, workers)]
    with interrupted(lambda: _kept(Path(folder), config.coupling.shards)):
        for helper in helpers:
            helper.start()
        work.make_shards(0, progress=this_process().rank == 0)
        for helper in helpers:
            helper.join()
            if helper.exitcode:
                raise ValueError(f"a rollout worker ended with exit code {helper.exitcode}: see its message above")


def _kept(folder: Path, shards: int) -> str:
    there = present_shards(folder, shards) if folder.is_dir() else ()
    return f"{len(there)} of {shards} shards are kept, the same command makes the rest"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _help(work: _Rollouts, number: int) -> None:
    """A worker beside the first one: it ends with its parent, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; one line, the parent's, says so
    guarded(lambda: work.make_shards(number))


@dataclass(frozen=True)
class _Rollouts:
    """What each worker of this machine is told; see `generate_coupling`."""

    config: Config
    teacher: str
    folder: str
    prompts_PL: Tensor | None
    workers: int

    def make_shards(self, number: int, progress: bool = False) -> None:
        """Do the work of worker `number`, with `THREADS` threads of torch."""
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            self._make_shards(number, progress)
        finally:
            torch.set_num_threads(threads)

    def _make_shards(self, number: int, progress: bool) -> None:
        process, coupling = this_process(), self.config.coupling
        loaded = load_model(self.teacher, coupling.weights)
        model = loaded.model.to(default_device(number or process.local_rank))
        data = prepare(self.config.data).train if coupling.kind == "perturbed" else None
        plan = make_plan(
            coupling,
            teacher=loaded.digest,
            data=data.fingerprint if data else None,
            vocab_size=model.vocab_size,
            mask_id=model.mask_id,
            length=loaded.length,
            prompts_PL=self.prompts_PL,
            device=model.device.type,
            threads=THREADS,
        )
        source: DrawSource = SOURCES.get(coupling.source)()

        def rollout(start_BL: Tensor, seed_B: Tensor, time_B: Tensor) -> Tensor:
            return sample(model, start_BL, seed_B, coupling.steps, coupling.noise_policy, time_B, source).tokens_BL

        generate(
            self.folder,
            coupling,
            rollout=rollout,
            plan=plan,
            data=data,
            prompts_PL=self.prompts_PL,
            worker=(process.rank * self.workers + number, process.world * self.workers),
            progress=progress,
        )
