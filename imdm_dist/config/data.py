"""Text, tokenizer and packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.setting import require, setting


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Text, tokenizer and packing."""

    root: str = ""
    """Folder that relative train and valid files start from; empty: the environment's IMDM_DATA, else where you are."""
    source: Literal["embedded", "files", "hub", "synthetic"] = "embedded"
    """embedded: English that CPython carries; files: train/valid below; hub: a data set's name; synthetic: {00, 11}."""
    train: tuple[str, ...] = ()
    """Training files (.txt, .jsonl, .parquet, also compressed), folders of them or globs, or one hub split such as
    train[:-100000]."""
    valid: tuple[str, ...] = ()
    """Validation files or split."""
    valid_share: float = 0.0
    """In place of data.valid: this share of the documents of data.train, chosen by their hash, is for validation."""
    name: str = ""
    """Name of the hub data set when source=hub."""
    text_field: str = "text"
    """Column or JSON field that holds the text; doc.text is field text within doc."""
    document: Literal["file", "paragraph", "line"] = "line"
    """What a document of a text file is; paragraphs are set apart by blank lines. A JSON object or a row is one."""
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
    cache: str = setting("runs/data", shapes=False)
    """Folder of the packed token files; a file is built once and shared by all runs."""

    def __post_init__(self) -> None:
        require(self.length >= 1, f"data.length is {self.length}: set it to 1 or more")
        require(self.bpe_size >= 300, f"data.bpe_size is {self.bpe_size}: a byte-level BPE needs 300 or more")
        require(0 <= self.valid_share < 1, f"data.valid_share is {self.valid_share}: set it to 0 or more, below 1")
        require(
            not (self.valid_share and self.valid),
            "data.valid and data.valid_share are both set: leave one of them out",
        )
        require(
            not self.valid_share or self.source in ("files", "hub"),
            f"data.valid_share splits text of your own, and data.source is {self.source}: leave it out",
        )
        require(
            self.source != "files" or bool(self.train and (self.valid or self.valid_share)),
            "data.source=files needs data.train and data.valid: give files of each, e.g. data.train=train.txt, or "
            "split training text with data.valid_share=0.01",
        )
        require(self.source != "hub" or bool(self.name), "data.source=hub needs data.name, e.g. data.name=openwebtext")
