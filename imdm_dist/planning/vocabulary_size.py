"""The size of a vocabulary, from settings, without preparing data."""

from __future__ import annotations

from pathlib import Path

from imdm_dist.config.data import DataConfig

KNOWN = {"gpt2": 50_258, "bert-base-uncased": 30_522}
"""Sizes of public tokenizers by the last part of their hub name, the mask included (GPT-2 has none of its own)."""


def vocabulary_size(config: DataConfig) -> int:
    """Ids of the vocabulary that `config` leads to, the mask's included.

    Raises:
        ValueError: the tokenizer is neither a folder that is there nor one of known size.
    """
    if config.source == "synthetic":
        return 3
    if config.tokenizer == "embedded":
        return config.bpe_size + 1
    from imdm_dist.data.corpus import data_root

    root = data_root(config)[0]
    if (root / Path(config.tokenizer).expanduser()).is_dir():
        from imdm_dist.data.tokenizer import load_tokenizer

        return load_tokenizer(config.tokenizer, root).vocab_size
    name = config.tokenizer.rpartition("/")[2]
    if name not in KNOWN:
        raise ValueError(
            f"data.tokenizer={config.tokenizer} is no folder under {root}, so the size of its vocabulary is not known: "
            "set data.root or IMDM_DATA, or give the size with --vocab"
        )
    return KNOWN[name]
