"""The checkpoint format: every quantity by parameter name, in pieces that any run can join, however it is split.

A checkpoint is a folder `step-00001000` in the run's folder: safetensors files that each rank wrote for itself
(weights, ema, exp_avg, exp_avg_sq, objective) and `state.json`: the step, configuration and provenance, the full
shape of each tensor, which piece of it lies where, and the SHA-256 of each file. It is written aside and renamed: a
folder of that name is whole. A run of one process writes whole tensors in their full shape. Data order, times, masks,
noise and dropout need no state, as they are functions of seed and step.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imdm_dist.config import from_dict
from imdm_dist.config.schema import Config
from imdm_dist.files import hash_json, read_record, refuse_dangling, refuse_lfs_pointers, sha256_file
from imdm_dist.model import Backbone, sketch
from imdm_dist.model.cuts import join, share

FORMAT = 2
PATTERN = "step-" + 8 * "[0-9]"
"""Names of checkpoint folders; others are not looked at."""
FILE_BYTES = 256 * 2**20
"""A rank begins a new file after this many bytes: writing one takes that much memory beside what it writes."""


@dataclass(frozen=True)
class Piece:
    """What a rank writes of a tensor."""

    start: int
    """Place of its first element in the flattened tensor-parallel share."""
    tensor: Tensor
    """Any shape; float32."""


Pieces = Mapping[str, Mapping[str, Piece]]
"""Pieces by quantity and parameter name."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


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


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been compared with their checksums."""

    path: Path
    state: dict[str, Any]
    """state.json."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])

    def names(self, quantity: str) -> list[str]:
        """Parameters of a quantity; empty if the checkpoint does not have it."""
        return list(self.state["pieces"].get(quantity, {}))

    def full(self, quantity: str, name: str) -> Tensor:
        """A tensor in its full shape, float32 on the host, joined from what the ranks wrote."""
        shape, ranks = self.state["shapes"][name], self.state["ranks"]["tensor_parallel"]
        cut = self._model.cut_of(name) if ranks > 1 else None
        part = share(torch.empty(shape, device="meta"), cut, 0, ranks)
        parts = [torch.empty(part.shape) for _ in range(1 if cut is None else ranks)]
        missing = sum(part.numel() for part in parts)
        for file, tp_rank, start in self.state["pieces"][quantity][name]:
            with safe_open(self.path / file, framework="pt") as opened:
                piece = opened.get_tensor(name).reshape(-1)
            parts[tp_rank].view(-1)[start : start + piece.numel()] = piece
            missing -= piece.numel()
        assert missing == 0, f"{self.path} lacks {missing} elements of {quantity} {name}"
        return join(parts, cut, shape)

    @functools.cached_property
    def _model(self) -> Backbone:
        """Its model without storage, which knows what ranks divide."""
        config = from_dict(Config, self.state["config"], where=str(self.path / "state.json")).model
        return sketch(config, self.state["model"]["vocab_size"], self.state["model"]["mask_id"])

    def digest(self, quantity: str) -> str:
        """What identifies the content of a quantity: the checksum of its file or files."""
        sums = [digest for file, digest in sorted(self.state["files"].items()) if file.startswith(quantity)]
        return sums[0] if len(sums) == 1 else "+".join(digest[:16] for digest in sums)


def check(path: Path, quantity: str = "", quick: bool = False) -> Checkpoint:
    """Read state.json of a checkpoint and compare every file with its checksum.

    Args:
        quantity: compare the files of this one alone; training needs all, a model a quarter of them.
        quick: compare only each file's header with its size, which shows what is cut off or something else.

    Raises:
        ValueError: a file is missing, differs or is a Git-LFS pointer, or the format is another one.
    """
    if not (path / "state.json").exists():
        raise ValueError(f"{path} is no checkpoint: it has no state.json; give a run folder or a step-* folder in it")
    state = read_record(path / "state.json")
    if state is None:
        raise ValueError(f"{path / 'state.json'} is damaged: use another checkpoint")
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    if state.pop("checksum", None) != hash_json(state):
        raise ValueError(f"{path / 'state.json'} is damaged: use another checkpoint")
    for name, digest in state["files"].items():
        file = path / name
        if not name.startswith(quantity):
            continue
        refuse_lfs_pointers(file)
        if not file.exists() or not (_has_its_size(file) if quick else sha256_file(file) == digest):
            raise ValueError(f"{file} is missing or damaged: use another checkpoint")
    return Checkpoint(path, state)


def _has_its_size(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False


def newest_checkpoint(folder: Path, quantity: str = "") -> Checkpoint | None:
    """The newest whole checkpoint of a run; broken ones are named on stderr and passed over. See `check`."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            return check(path, quantity)
        except ValueError as error:
            print(f"passing over a broken checkpoint: {error}", file=sys.stderr)
    return None


def discard_broken(folder: Path) -> None:
    """Remove the checkpoints of a run that are not whole; call it only while nobody writes there."""
    for path in folder.glob(PATTERN):
        try:
            check(path)
        except ValueError:
            shutil.rmtree(path)


def find_checkpoint(path: Path, quantity: str = "") -> Checkpoint:
    """The checkpoint at `path`, or the newest whole one of the run folder there. See `check`.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    refuse_dangling(path)
    if not path.exists():
        raise ValueError(f"there is no run or checkpoint at {path}: check the path, or train it first")
    if (path / "state.json").exists():
        return check(path.resolve(), quantity)
    newest = newest_checkpoint(path, quantity)
    if newest is None:
        raise ValueError(f"{path} holds no whole checkpoint (step-* folder): train it first")
    return newest


def glance(path: Path, quantity: str = "") -> Checkpoint:
    """What `find_checkpoint` will find, by headers alone and without a word on stderr.

    Raises:
        ValueError: there is none, or none is whole; the message says what is wrong with the newest one.
    """
    if (path / "state.json").exists():
        return check(path.resolve(), quantity, quick=True)
    wrong: list[str] = []
    for one in sorted(path.glob(PATTERN), reverse=True):
        try:
            return check(one, quantity, quick=True)
        except ValueError as error:
            wrong.append(str(error))
    cause = f": {wrong[0]}" if wrong else " (step-* folder): train it first"
    raise ValueError(f"{path} holds no whole checkpoint{cause}")
