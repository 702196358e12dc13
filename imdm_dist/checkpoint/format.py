"""The checkpoint format: every quantity by parameter name, in pieces that any run can join, however it is split.

A checkpoint is a folder `step-00001000` in the run's folder: safetensors files that each rank wrote for itself
(weights, ema, exp_avg, exp_avg_sq, objective) and `state.json`: the step, configuration and provenance, the full
shape of each tensor, which piece of it lies where, and the SHA-256 of each file. It is written aside and renamed: a
folder of that name is whole. A run of one process writes whole tensors in their full shape. Data order, times, masks,
noise and dropout need no state, as they are functions of seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from imdm_dist import run_files
from imdm_dist.files import hash_json, sha256_file, write_json

FORMAT = 2
STATE_BYTES = 16
"""Bytes of a parameter in a checkpoint: weights, EMA and two moments in float32; an objective may add some."""
PATTERN = run_files.CHECKPOINT + 8 * "[0-9]"
"""Names of checkpoint folders; others are not looked at."""
FILE_BYTES = 256 * 2**20
"""A rank begins a new file after this many bytes: writing one takes that much memory beside what it writes."""


@dataclass(frozen=True)
class Piece:
    """A consecutive piece of a parameter, or of what belongs to it: what one rank owns or writes."""

    start: int
    """Place of its first element in the flattened tensor-parallel share."""
    tensor: Tensor
    """Any shape; float32."""

    def copy_from(self, whole: Tensor) -> None:
        """Overwrite it, in place, with its part of a whole tensor-parallel share."""
        count = self.tensor.numel()
        self.tensor.view(-1).copy_(whole.reshape(-1)[self.start : self.start + count])


Pieces = Mapping[str, Mapping[str, Piece]]
"""Pieces by quantity and parameter name."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` steps."""
    return f"{run_files.CHECKPOINT}{step:08d}"


def checkpoint_paths(folder: Path) -> dict[int, Path]:
    """The checkpoint folders of a run, whole or not, by step in rising order."""
    return {int(path.name.removeprefix(run_files.CHECKPOINT)): path for path in sorted(folder.glob(PATTERN))}


def write_pieces(folder: Path, rank: int, world: int, tp_rank: int, pieces: Pieces) -> dict[str, Any]:
    """Write what one rank has; return its index: checksums by file, and [file, tp_rank, start] by quantity and name."""
    index: dict[str, Any] = {"files": {}, "pieces": {}}
    for quantity, named in pieces.items():
        index["pieces"][quantity] = {}
        batches: list[dict[str, Piece]] = [{}]
        size = 0
        for name, piece in named.items():
            if size and size + piece.tensor.nbytes > FILE_BYTES:
                batches.append({})
                size = 0
            batches[-1][name] = piece
            size += piece.tensor.nbytes
        for number, batch in enumerate(batches):
            if not batch:
                continue
            which = "" if world == 1 else f"-rank{rank:05d}"
            part = "" if len(batches) == 1 else f"-{number:03d}"
            file = folder / f"{quantity}{which}{part}.safetensors"
            save_file({name: piece.tensor.contiguous() for name, piece in batch.items()}, file)
            file.chmod(0o644)  # the library makes files that nobody else may read
            index["files"][file.name] = sha256_file(file)
            index["pieces"][quantity] |= {name: [file.name, tp_rank, piece.start] for name, piece in batch.items()}
    return index


def merge_indices(indices: list[dict[str, Any]]) -> dict[str, Any]:
    """One index out of those of all ranks, with a list of pieces for each name."""
    merged: dict[str, Any] = {"files": {}, "pieces": {}}
    for index in indices:
        merged["files"] |= index["files"]
        for quantity, named in index["pieces"].items():
            for name, place in named.items():
                merged["pieces"].setdefault(quantity, {}).setdefault(name, []).append(place)
    return merged


def write_state(folder: Path, step: int, about: Mapping[str, Any], index: Mapping[str, Any]) -> None:
    """Write state.json, the last file of a checkpoint.

    Args:
        about: config, model, ranks, updates, valid_ppl, shapes, provenance and versions.
        index: of all ranks, as `merge_indices` makes it.
    """
    state = {"format": FORMAT, "step": step, **about, **index}
    write_json(folder / run_files.STATE, state | {"checksum": hash_json(state)})
