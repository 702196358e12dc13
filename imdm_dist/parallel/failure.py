"""Failure of a rank: all ranks end soon, and its error is what the user sees, once.

A rank that raises leaves its message in the launch's key-value store and exits. A thread in every rank looks there
once a second; it ends its process at once, because the main thread may wait in a collective for ever. A rank that
vanishes without a word closes its connections, which makes gloo's collectives raise; under NCCL the launcher (torchrun,
srun --kill-on-bad-exit) ends the others.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from imdm_dist import run_files
from imdm_dist.error_boundary import note_refusal
from imdm_dist.exit_codes import EXIT_FAILED, EXIT_HUNG, EXIT_INTERRUPTED, EXIT_REFUSED
from imdm_dist.parallel.environment import env_number
from imdm_dist.parallel.topology import LINGER, Topology

INTERVAL = 1.0
"""Seconds between two looks."""
_KEY = "imdm_dist/failed"
_HUNG = "imdm_dist/hung"
T = TypeVar("T")


class FailureWatch:
    """Looks out for failures of other ranks."""

    def __init__(self, topology: Topology, store: dist.Store) -> None:  # type: ignore[name-defined]
        self.topology, self.store = topology, store
        self.on_hang: Callable[[], None] | None = None
        """Called in this thread when another rank says that no step ends any more; does not return."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="failure watch", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                if not self.store.check([_KEY]):
                    continue
                message = self.store.get(_KEY).decode()
            except Exception:
                message = f"{EXIT_FAILED} the rank that keeps the store of this launch is gone"
            if self._stop.is_set():
                return
            code, _, what = message.partition(" ")
            if int(code) == EXIT_HUNG and self.on_hang is not None:
                self.on_hang()
            print(f"error: {what}", file=sys.stderr, flush=True)
            os._exit(int(code))

    def tell(self, error: BaseException) -> None:
        """Leave a message for the others."""
        self._stop.set()
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{_code(error)} rank {self.topology.rank} failed: {type(error).__name__}: {error} "
        try:
            self.store.set(_KEY, message + f"({Path(where.filename).name}:{where.lineno})")
        except Exception:  # the store has gone: the others know already
            return

    def tell_hung(self, place: tuple[Any, ...]) -> None:
        """Say that no step ends any more and where this rank is (for JSON); every rank has `on_hang` called then."""
        self._stop.set()
        self.store.set(f"{_HUNG}/{self.topology.rank}", json.dumps(place))
        self.store.compare_set(_KEY, "", f"{EXIT_HUNG} no step ends any more, as rank {self.topology.rank} found")

    def hung_places(self) -> dict[int, Any]:
        """What `tell_hung` was given, by rank, as far as they have called it."""
        keys = {rank: f"{_HUNG}/{rank}" for rank in range(self.topology.world)}
        return {rank: tuple(json.loads(self.store.get(key))) for rank, key in keys.items() if self.store.check([key])}

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


@contextmanager
def all_fail_together(topology: Topology) -> Iterator[FailureWatch | None]:
    """What one rank raises inside ends every rank of the launch; nothing is added to a launch of one.

    Yields the watch; None in a launch of one, where nothing is added.

    Rank 0 raises on and says what happened; the others leave it to rank 0, in whose store their error is.
    """
    if topology.world == 1:
        yield None
        return
    watch = FailureWatch(topology, dist.distributed_c10d._get_default_store())
    try:
        yield watch
        topology.barrier()  # nobody leaves while another may still fail
    except SystemExit:
        watch.close()
        time.sleep(LINGER)
        raise
    except BaseException as error:
        watch.tell(error)
        if topology.first:
            raise
        if _code(error) == EXIT_REFUSED:
            note_refusal()
        time.sleep(LINGER)
        raise SystemExit(EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else _code(error)) from error
    watch.close()


def _code(error: BaseException) -> int:
    return EXIT_REFUSED if isinstance(error, (ValueError, OSError)) else EXIT_FAILED


def agree(topology: Topology, function: Callable[[], T]) -> T:
    """Call `function` on every rank; where it raises on any, rank 0 raises the first error and the others exit.

    For what users get wrong: all ranks see it, and one line is enough.
    """
    error: ValueError | OSError | None = None
    try:
        result = function()
    except (ValueError, OSError) as raised:
        error = raised
    errors: list[ValueError | OSError | None] = [None] * topology.world
    dist.all_gather_object(errors, error, group=topology.control)
    first = next((found for found in errors if found is not None), None)
    if first is not None:
        if topology.first:
            raise first
        raise SystemExit(EXIT_REFUSED)
    return result


@dataclass(frozen=True)
class Log:
    """Where a rank says things."""

    path: Path
    """Its log; that of rank 0 is made when something is written to it."""
    console: int
    """Descriptor of the launch's stderr."""


def log_path(folder: Path, rank: int) -> Path:
    """`logs/rank-00001.log` in a run's folder; under SLURM the name begins with the job, array task and restart."""
    have = os.environ
    job = have.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in have:
        job = f"{have['SLURM_ARRAY_JOB_ID']}_{have['SLURM_ARRAY_TASK_ID']}"
    restart = env_number("SLURM_RESTART_COUNT", 0)
    whose = f"job-{job}-{f'restart-{restart}-' if restart else ''}" if job else ""
    return folder / run_files.LOGS / f"{whose}rank-{rank:05d}.log"


@contextmanager
def rank_log(topology: Topology, folder: Path) -> Iterator[Log]:
    """Send what ranks other than 0 print to a log of their own in the run's folder."""
    path = log_path(folder, topology.rank)
    if topology.first:
        yield Log(path, 2)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    before = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    try:
        yield Log(path, before[1])
    except KeyboardInterrupt:
        raise
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, old in zip((1, 2), before, strict=True):
            os.dup2(old, stream)
            os.close(old)
