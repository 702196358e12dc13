"""Writing checkpoints: sharded, each rank its own files, published by one rename; asynchronously where wanted.

All ranks write into one hidden folder; a rank's index is the last thing it writes. Rank 0 waits for all indices,
writes state.json and renames the folder. No collective is involved, so this runs beside training, and a process
that dies leaves a hidden folder that the next start removes.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from imdm_dist import run_files
from imdm_dist.checkpoint.format import Piece, Pieces, checkpoint_name, merge_indices, write_pieces, write_state
from imdm_dist.checkpoint.retain import Retention
from imdm_dist.files import publish_file, read_json, sync_paths, write_json
from imdm_dist.parallel.topology import Topology

PATIENCE = 1800.0
"""Seconds that rank 0 waits for the other ranks' files."""


class Saver:
    """Publishes the checkpoints of a run, one at a time.

    Args:
        folder: the run's folder, on a file system that all ranks share.
        retention: which checkpoints stay when a new one is there.
    """

    def __init__(self, folder: Path, topology: Topology, retention: Retention) -> None:
        self.folder, self.topology, self.retention = folder, topology, retention
        self._launch = topology.from_first(uuid.uuid4().hex[:8])
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._abandoned = threading.Event()
        self._staged: dict[tuple[str, str], torch.Tensor] = {}

    def save(self, step: int, pieces: Pieces, about: dict[str, Any], background: bool) -> None:
        """Write the checkpoint of `step`.

        Args:
            pieces: what this rank writes; live tensors.
            about: what goes into state.json beside step and pieces, see `write_state`.
            background: copy the tensors to the host and return; else write them as they are and return when the
                checkpoint is published.

        Raises:
            ValueError: a save that is not in the background failed.
        """
        self._join()
        if self.failed:
            print(f"a checkpoint could not be written ({self._error}): trying again at step {step}", file=sys.stderr)
            self._error = None
        self._abandoned.clear()
        if background:
            pieces = self._stage(pieces)
        self._thread = threading.Thread(target=self._run, args=(step, pieces, about), name=f"save-{step}")
        self._thread.start()
        if not background:
            self.wait()

    def _stage(self, pieces: Pieces) -> Pieces:
        """Copy to host memory that is kept for the next time."""
        staged: dict[str, dict[str, Piece]] = {}
        for quantity, named in pieces.items():
            staged[quantity] = {}
            for name, piece in named.items():
                key = quantity, name
                if key not in self._staged:
                    pinned = piece.tensor.device.type == "cuda"
                    self._staged[key] = torch.empty(piece.tensor.shape, dtype=torch.float32, pin_memory=pinned)
                self._staged[key].copy_(piece.tensor, non_blocking=True)
                staged[quantity][name] = Piece(piece.start, self._staged[key])
        return staged

    @property
    def failed(self) -> bool:
        """Whether the last save in the background came to nothing."""
        return self._error is not None

    def abandon(self) -> None:
        """Stop waiting for other ranks' files: one of them has failed."""
        self._abandoned.set()

    def wait(self) -> None:
        """Wait until the save under way is done.

        Raises:
            ValueError: it came to nothing.
        """
        self._join()
        if self._error is not None:
            error, self._error = self._error, None
            raise ValueError(
                f"a checkpoint could not be written ({error}): make room or mend the folder {self.folder}, then start "
                "again; what was saved before is whole"
            ) from error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, step: int, pieces: Pieces, about: dict[str, Any]) -> None:
        aside = self.folder / f".{checkpoint_name(step)}.{self._launch}.tmp"
        rank = self.topology.rank
        try:
            if self.topology.device.type == "cuda":
                torch.cuda.current_stream(self.topology.device).synchronize()  # copies into pinned memory
            aside.mkdir(parents=True, exist_ok=True)
            index = write_pieces(aside, rank, self.topology.world, self.topology.tp_rank, pieces)
            sync_paths(*(aside / name for name in index["files"]))
            write_json(aside / f"rank-{rank:05d}.json", index)
            if self.topology.first:
                self._publish(aside, step, about)
        except Exception as error:
            self._error = error
            if self.topology.first:
                shutil.rmtree(aside, ignore_errors=True)

    def _publish(self, aside: Path, step: int, about: dict[str, Any]) -> None:
        indices = self._wait_for_ranks(aside)
        write_state(aside, step, about, merge_indices(indices))
        for file in aside.glob("rank-*.json"):
            file.unlink()
        sync_paths(aside)
        path = self.folder / checkpoint_name(step)
        os.replace(aside, path)
        sync_paths(self.folder)
        with publish_file(self.folder / run_files.LATEST) as pointer:
            pointer.write_text(f"{path.name}\n", encoding="utf-8")
        try:
            self.retention.apply(self.folder)
        except OSError as error:  # the checkpoint is there all the same
            print(f"an old checkpoint could not be removed: {error}", file=sys.stderr)

    def _wait_for_ranks(self, aside: Path) -> list[dict[str, Any]]:
        paths = [aside / f"rank-{rank:05d}.json" for rank in range(self.topology.world)]
        until = time.monotonic() + PATIENCE
        while not all(path.exists() for path in paths):
            if self._abandoned.is_set():
                raise TimeoutError("another rank could not write its part")
            if time.monotonic() > until:
                late = [path.name for path in paths if not path.exists()]
                raise TimeoutError(f"after {PATIENCE:.0f} s these are not written: {', '.join(late)}")
            time.sleep(0.02)
        return [read_json(path) for path in paths]


def owners(sizes: dict[str, int], ranks: int) -> dict[str, int]:
    """Share tensors that all ranks hold among them, by size: who writes which."""
    load = [0] * ranks
    owner = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner[name] = load.index(min(load))
        load[owner[name]] += sizes[name]
    return owner
