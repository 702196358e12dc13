"""Checks of an evaluator's files before its weights are read: whether they are whole, and which rows it can score."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from imdm_dist import hub
from imdm_dist.data.row_format import RowFormat
from imdm_dist.data.tokenizer import load_tokenizer
from imdm_dist.evaluation.causal_lm import RECORD, is_folder, unusable
from imdm_dist.files import read_json, refuse_lfs_pointers, refuse_no_objects

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of weights, or of the list of their files, in the order in which transformers looks for them."""
_PICKLE = b"\x80\x02"
"""How torch's files from before release 1.6 begin, which are no zip archives."""


@dataclass(frozen=True)
class EvaluatorFiles:
    """What an evaluator's files say."""

    name: str
    positions: int
    """Tokens that it reads at a time."""
    trained_on: list[Any] | None
    """[fingerprint of the tokenizer, ids, mask id] of one that was trained here; None for any other."""
    tokenizer: str | None
    """Fingerprint of the tokenizer of any other."""

    def misfit(self, rows: RowFormat) -> str | None:
        """What keeps it from scoring rows of these tokens, if anything; see `scorer`."""
        known = rows.vocab_size is not None
        if self.trained_on is not None:
            ours = [rows.tokenizer, rows.vocab_size, rows.mask_id]
            if self.trained_on != ours if known else self.trained_on[1] > rows.most:
                return f"{self.name} was trained on other tokens than this data has: train one on this data"
        elif known and rows.tokenizer not in (None, self.tokenizer):
            return None  # it scores text in its own tokens, cut to what it reads
        if rows.length > self.positions and (known or self.trained_on is not None):
            return (
                f"{self.name} reads {self.positions} tokens, rows have {rows.length}: train one on rows of "
                f"data.length={rows.length}, or name another"
            )
        return None


def find_evaluator(folder_or_name: str) -> EvaluatorFiles | None:
    """Look at the files of an evaluator; None if they are still on the hub.

    Raises:
        ValueError: there is no such folder or hub name, or a file of it is missing, cut off or something else.
    """
    try:
        folder = Path(folder_or_name) if is_folder(folder_or_name) else hub.find(folder_or_name)
        if folder is not None and not is_folder(folder_or_name) and _list_of_weights(folder) is None:
            hub.ask(folder_or_name)
            folder = None
        if folder is None:
            return None
        refuse_lfs_pointers(folder)
        refuse_no_objects(folder / "config.json", *folder.glob("*.index.json"))
        _check_weights(folder)
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"{config.model_type} is no causal language model")
        positions = getattr(config, "max_position_embeddings", None)
        if positions is None:
            raise ValueError("its config.json does not say how many tokens it reads (max_position_embeddings)")
        if (folder / RECORD).exists():
            return EvaluatorFiles(folder_or_name, positions, read_json(folder / RECORD)["tokens"], None)
        return EvaluatorFiles(folder_or_name, positions, None, load_tokenizer(str(folder)).fingerprint)
    except Exception as error:  # readers of other people's files raise what they like
        said = str(error).replace("data.tokenizer=", "tokenizer ")
        raise unusable(folder_or_name, ValueError(said)) from None


def _list_of_weights(folder: Path) -> Path | None:
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def _check_weights(folder: Path) -> None:
    """Check that the files of weights are as long as their headers say."""
    found = _list_of_weights(folder)
    if found is None:
        raise ValueError(f"it has no weights: neither {' nor '.join(_WEIGHTS[::2])}")
    names = set(read_json(found)["weight_map"].values()) if found.suffix == ".json" else {found.name}
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if not _is_whole(folder / name):
            raise ValueError(f"{name} is cut off or no file of weights")


def _is_whole(file: Path) -> bool:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                return True
        except SafetensorError:
            return False
    with open(file, "rb") as opened:
        old = opened.read(len(_PICKLE)) == _PICKLE
    return old or zipfile.is_zipfile(file)  # the list of a zip archive is at its end
