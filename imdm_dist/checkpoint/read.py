"""Reading checkpoints, with the checksum of every file compared, and joining tensors for any number of ranks."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from imdm_dist import run_files
from imdm_dist.checkpoint.format import FORMAT, checkpoint_paths
from imdm_dist.config import from_dict
from imdm_dist.config.schema import Config
from imdm_dist.files import hash_json, read_record, refuse_dangling, refuse_lfs_pointers, sha256_file
from imdm_dist.model import Backbone, sketch
from imdm_dist.model.cuts import Cut, join, share


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

    def config(self) -> Config:
        """Settings of the run that wrote it but for its objective: a model is of use where that one's file is not."""
        given = {name: settings for name, settings in self.state["config"].items() if name != "objective"}
        return from_dict(Config, given, where=str(self.path / run_files.STATE))

    def names(self, quantity: str) -> list[str]:
        """Parameters of a quantity; empty if the checkpoint does not have it."""
        return list(self.state["pieces"].get(quantity, {}))

    def full(self, quantity: str, name: str) -> Tensor:
        """A tensor in its full shape, float32 on the host, joined from what the ranks wrote."""
        shape, ranks = self.state["shapes"][name], self.state["ranks"]["tensor_parallel"]
        cut = self._cut_of(name) if ranks > 1 else None
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

    def share(self, quantity: str, name: str, rank: int, ranks: int) -> Tensor:
        """The part of `full` that belongs to one of several tensor-parallel ranks."""
        return share(self.full(quantity, name), self._cut_of(name) if ranks > 1 else None, rank, ranks)

    def _cut_of(self, name: str) -> Cut | None:
        return self._model.cut_of(name)

    @functools.cached_property
    def _model(self) -> Backbone:
        """Its model without storage, which knows what ranks divide."""
        return sketch(self.config().model, self.state["model"]["vocab_size"], self.state["model"]["mask_id"])

    def digest(self, quantity: str) -> str:
        """What identifies the content of a quantity: the checksum of its file or files."""
        sums = [digest for file, digest in sorted(self.state["files"].items()) if file.startswith(quantity)]
        return sums[0] if len(sums) == 1 else "+".join(digest[:16] for digest in sums)


def open_checkpoint(path: Path, quantity: str = "", quick: bool = False) -> Checkpoint:
    """Read state.json of a checkpoint and compare every file with its checksum.

    Args:
        quantity: compare the files of this one alone; training needs all, a model a quarter of them.
        quick: compare only each file's header with its size, which shows what is cut off or something else.

    Raises:
        ValueError: a file is missing, differs or is a Git-LFS pointer, or the format is another one.
    """
    if not (path / run_files.STATE).exists():
        raise ValueError(f"{path} is no checkpoint: it has no state.json; give a run folder or a step-* folder in it")
    state = read_record(path / run_files.STATE)
    if state is None:
        raise ValueError(f"{path / run_files.STATE} is damaged: use another checkpoint")
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    if state.pop("checksum", None) != hash_json(state):
        raise ValueError(f"{path / run_files.STATE} is damaged: use another checkpoint")
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
    """The newest whole checkpoint of a run; broken ones are named on stderr and passed over. See `open_checkpoint`."""
    newest, _ = _newest(folder, quantity)
    return newest


def find_checkpoint(path: Path, quantity: str = "", quick: bool = False) -> Checkpoint:
    """The checkpoint at `path`, or the newest whole one of the run folder there. See `open_checkpoint`.

    Args:
        quick: look at headers alone, without a word on stderr.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    refuse_dangling(path)
    if not path.exists():
        raise ValueError(f"there is no run or checkpoint at {path}: check the path, or train it first")
    if (path / run_files.STATE).exists():
        return open_checkpoint(path.resolve(), quantity, quick)
    newest, broken = _newest(path, quantity, quick)
    if newest is None:
        cause = f": {broken[0]}" if quick and broken else " (step-* folder): train it first"
        raise ValueError(f"{path} holds no whole checkpoint{cause}")
    return newest


def _newest(folder: Path, quantity: str, quick: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with those after it."""
    broken: list[str] = []
    for path in reversed(checkpoint_paths(folder).values()):
        try:
            return open_checkpoint(path, quantity, quick), broken
        except ValueError as error:
            broken.append(str(error))
            if not quick:
                print(f"passing over a broken checkpoint: {error}", file=sys.stderr)
    return None, broken
