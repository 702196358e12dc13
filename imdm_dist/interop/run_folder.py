"""An imported model as a run folder: one checkpoint, its settings, its tokenizer and the account of the import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from imdm_dist import run_files
from imdm_dist.checkpoint.format import Piece, checkpoint_name, merge_indices, write_pieces, write_state
from imdm_dist.config import Config, to_dict
from imdm_dist.data import Tokenizer
from imdm_dist.files import publish_dir, write_json
from imdm_dist.interop.report import ImportReport
from imdm_dist.model import Backbone
from imdm_dist.versions import versions

REPORT = "import.json"
"""The account of the import, in the folder."""


@dataclass(frozen=True)
class Imported:
    """A model that has been checked."""

    config: Config
    model: Backbone
    """Without storage: its sizes count."""
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    """Raw weights by parameter, float32."""
    ema: Mapping[str, Tensor]
    """Moving average by parameter, float32; the raw weights where the file has none."""


def write_run_folder(out: Path, imported: Imported, report: ImportReport) -> None:
    """Publish the folder whole: weights and ema as a checkpoint, config.json, tokenizer and import.json.

    Raises:
        ValueError: the disk is full.
    """
    provenance = {
        "data": None,
        "tokenizer": imported.tokenizer.fingerprint,
        "import": {name: getattr(report, name) for name in ("file", "sha256", "container", "step")},
    }
    about = {"config": to_dict(imported.config), "provenance": provenance, "versions": versions()}
    try:
        with publish_dir(out) as aside:
            _write_checkpoint(aside / checkpoint_name(report.step), imported, report.step, about)
            (aside / run_files.LATEST).write_text(f"{checkpoint_name(report.step)}\n", encoding="utf-8")
            imported.tokenizer.save(aside / run_files.TOKENIZER)
            write_json(aside / run_files.CONFIG, about)
            write_json(aside / REPORT, report.as_dict())
    except SafetensorError as error:  # the library's name for a disk that is full
        raise ValueError(f"{out} could not be written ({error}): make room, or give another --out") from None


def _write_checkpoint(folder: Path, imported: Imported, step: int, about: Mapping[str, Any]) -> None:
    model = imported.model
    pieces = {
        quantity: {name: Piece(0, tensor) for name, tensor in named.items()}
        for quantity, named in (("weights", imported.weights), ("ema", imported.ema))
    }
    folder.mkdir()
    index = merge_indices([write_pieces(folder, rank=0, world=1, tp_rank=0, pieces=pieces)])
    sizes = {
        "model": {
            "vocab_size": model.vocab_size,
            "mask_id": model.mask_id,
            "length": imported.config.data.length,
        },
        "ranks": {"tensor_parallel": 1, "data_parallel": 1},
        "updates": step,
        "valid_ppl": None,
        "shapes": {name: list(tensor.shape) for name, tensor in imported.weights.items()},
    }
    write_state(folder, step, {**about, **sizes}, index)
