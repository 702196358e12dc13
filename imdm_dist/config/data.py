"""Text, tokenizer and packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.require import require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Text, tokenizer and packing."""

    root: str = ""
    """Folder that relative train and valid files start from; empty: the environment's IMDM_DATA, else where you are."""
    source: Literal["embedded", "files", "hub", "synthetic"] = "embedded"
    """embedded: English that CPython carries; files: train/valid below; hub: a data set's name; synthetic: {00, 11}."""
    train: tuple[str, ...] = ()
    """Training files (.txt, .jsonl, .parquet, also .gz; globs allowed), or one hub split such as train[:-100000]."""
    valid: tuple[str, ...] = ()
    """Validation files or split."""
    name: str = ""
    """Name of the hub data set when source=hub."""
    text_field: str = "text"
    """Column or JSON field that holds the text."""
    tokenizer: str = "embedded"
    """embedded: a byte-level BPE trained on the training text; else a local folder or a hub name."""
    bpe_size: int = 1024
    """Vocabulary of the BPE that tokenizer=embedded trains (mask not counted)."""
    packing: Literal["document", "sentence"] = "document"
    """document: as MDLM packs OpenWebText; sentence: as MDLM and DUO pack LM1B."""
    separator: Literal["begin", "end"] = "end"
    """Token behind each text and row. MDLM, DUO and ReDi take begin: with BERT [CLS]; GPT-2 has one token for both."""
    detokenizer: Literal["none", "lm1b"] = "none"
    """Undo the tokenisation of a corpus before ours."""
    length: int = 32
    """Tokens in a training example, begin and end tokens included."""
    cache: str = "runs/data"
    """Folder of the packed token files; a file is built once and shared by all runs."""

    def __post_init__(self) -> None:
        require(self.length >= 1, f"data.length is {self.length}: set it to 1 or more")
        require(self.bpe_size >= 300, f"data.bpe_size is {self.bpe_size}: a byte-level BPE needs 300 or more")
        require(
            self.source != "files" or bool(self.train and self.valid),
            "data.source=files needs data.train and data.valid: give files of each, e.g. data.train=train.txt",
        )
        require(self.source != "hub" or bool(self.name), "data.source=hub needs data.name, e.g. data.name=openwebtext")
