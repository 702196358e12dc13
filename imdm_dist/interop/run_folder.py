"""Writes an imported model as a run folder: one checkpoint, its settings, its tokenizer and the import report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

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


def write_run_folder(
    out: Path,
    config: Config,
    model: Backbone,
    tokenizer: Tokenizer,
    weights: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    report: ImportReport,
) -> None:
    """Publish the folder whole: weights and ema as a checkpoint, config.json, tokenizer and import.json.

    Args:
        model: without storage: its sizes count.
        weights: raw weights by parameter, float32.
        ema: moving average by parameter, float32; the raw weights where the file has none.

    Raises:
        ValueError: the disk is full.
    """
    provenance = {
        "data": None,
        "tokenizer": tokenizer.fingerprint,
        "import": {name: getattr(report, name) for name in ("file", "sha256", "container", "step")},
    }
    about = {"config": to_dict(config), "provenance": provenance, "versions": versions()}
    state = {
        **about,
        "model": {"vocab_size": model.vocab_size, "mask_id": model.mask_id, "length": config.data.length},
        "ranks": {"tensor_parallel": 1, "data_parallel": 1},
        "updates": report.step,
        "valid_ppl": None,
        "shapes": {name: list(tensor.shape) for name, tensor in weights.items()},
    }
    pieces = {
        quantity: {name: Piece(0, tensor) for name, tensor in named.items()}
        for quantity, named in (("weights", weights), ("ema", ema))
    }
    name = checkpoint_name(report.step)
    try:
        with publish_dir(out) as aside:
            (aside / name).mkdir()
            index = merge_indices([write_pieces(aside / name, rank=0, world=1, tp_rank=0, pieces=pieces)])
            write_state(aside / name, report.step, state, index)
            (aside / run_files.LATEST).write_text(f"{name}\n", encoding="utf-8")
            tokenizer.save(aside / run_files.TOKENIZER)
            write_json(aside / run_files.CONFIG, about)
            write_json(aside / REPORT, asdict(report))
    except SafetensorError as error:  # the library's name for a disk that is full
        raise ValueError(f"{out} could not be written ({error}): make room, or give another --out") from None
