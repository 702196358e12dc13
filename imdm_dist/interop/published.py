"""Reads published checkpoints: tensors, settings and moving average, whatever container they are in.

A Lightning file holds `state_dict`, the moving average as an unnamed list, and its settings as foreign objects; a hub
folder holds `model.safetensors` or `pytorch_model.bin` beside `config.json`; and a file may hold named tensors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from imdm_dist.files import read_json, refuse_lfs_pointers, refuse_no_objects
from imdm_dist.interop.safe_unpickle import NO_SUMS, StandIn, check_sums, read_torch_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a hub folder, the better one first."""
_NOT_WEIGHTS = {
    "optimizer_states": "an optimizer's state belongs to its run",
    "lr_schedulers": "a schedule's state belongs to its run",
    "loops": "the trainer's counters",
    "callbacks": "the trainer's callbacks",
    "sampler": "the place in the data",
    "hyper_parameters": "foreign objects; only numbers and words of the settings are looked at",
}
_DEEPEST = 8


@dataclass(frozen=True)
class Ema:
    """A moving average as others save it."""

    tensors: list[Tensor]
    """In the order of the trainable parameters; without names."""
    decay: float | None
    updates: int | None


@dataclass(frozen=True)
class PublishedCheckpoint:
    """An opened checkpoint; its tensors are mapped from the file where the format allows it."""

    path: Path
    """The file of the weights."""
    container: str
    """What it is packed in, in words."""
    tensors: dict[str, Tensor]
    """By the names in the file."""
    settings: dict[str, Any]
    """What the file or its config.json says of the model; empty if nothing does."""
    integrity: str = NO_SUMS
    """Whether its bytes are known to be those that were written, in words."""
    ema: Ema | None = None
    step: int = 0
    """Optimizer steps it was trained for; 0 where the file does not say."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Other parts of the file, and why they are not used."""

    def setting(self, *names: str) -> Any:
        """The first of these settings, by dotted name, that the source has; else None."""
        for name in names:
            value: Any = self.settings
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        return None


def open_published(path: Path) -> PublishedCheckpoint:
    """Open a checkpoint file or a hub folder.

    Raises:
        ValueError: there is none, it is damaged or hostile, or it does not hold named tensors.
    """
    if not path.exists():
        raise ValueError(f"there is nothing at {path}: give a checkpoint file, or a folder with {WEIGHT_FILES[0]}")
    if not path.is_dir():
        return _open_file(path, path.parent / "config.json" if path.name in WEIGHT_FILES else None)
    found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    if not found:
        raise ValueError(f"{path} has neither {' nor '.join(WEIGHT_FILES)}: download them, or name the checkpoint file")
    return _open_file(found[0], path / "config.json")


def _open_file(path: Path, config: Path | None) -> PublishedCheckpoint:
    refuse_lfs_pointers(path)
    if config is not None:
        refuse_no_objects(config)
    settings = read_json(config) if config is not None and config.is_file() else {}
    folder = "hub folder, " if config is not None else ""
    if path.suffix == ".safetensors":
        try:
            return PublishedCheckpoint(path, f"{folder}safetensors", load_file(path), settings)
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file, or is cut off ({error}): download it again") from None
    content = read_torch_file(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        return _lightning(path, content, settings)
    return PublishedCheckpoint(path, f"{folder}torch file", _named_tensors(path, content), settings, check_sums(path))


def _lightning(path: Path, content: dict[str, Any], settings: dict[str, Any]) -> PublishedCheckpoint:
    found = plain(content.get("hyper_parameters"))
    if isinstance(found, dict):
        settings = found["config"] if isinstance(found.get("config"), dict) else found
    step = content.get("global_step")
    return PublishedCheckpoint(
        path=path,
        container="Lightning checkpoint" if "pytorch-lightning_version" in content else "torch file with a state_dict",
        tensors=_named_tensors(path, content["state_dict"]),
        settings=settings,
        integrity=check_sums(path),
        ema=_ema(path, content.get("ema")),
        step=step if isinstance(step, int) else 0,
        ignored={name: why for name, why in _NOT_WEIGHTS.items() if content.get(name)},
    )


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        raise ValueError(f"{path} is no checkpoint: it holds no tensors by name; give one with a state_dict")
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _ema(path: Path, content: Any) -> Ema | None:
    if content is None:
        return None
    tensors = content.get("shadow_params") if isinstance(content, dict) else None
    if not isinstance(tensors, list) or not all(isinstance(one, Tensor) for one in tensors):
        raise ValueError(f"{path} has an ema that is no list of tensors (shadow_params): take another checkpoint")
    decay, updates = content.get("decay"), content.get("num_updates")
    return Ema(
        [tensor.detach() for tensor in tensors],
        decay if isinstance(decay, float) else None,
        updates if isinstance(updates, int) else None,
    )


def plain(value: Any, depth: int = 0) -> Any:
    """Numbers, words, lists and dictionaries of unpickled settings, OmegaConf's included; None for anything else."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, StandIn) and isinstance(value.state, dict):
        value = value.state.get("_content", value.state.get("_val"))  # OmegaConf's containers and leaves
    if isinstance(value, dict):
        return {str(name): plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, depth + 1) for one in value]
    return value if isinstance(value, str | int | float) else None
