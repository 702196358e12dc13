"""Prompts for conditional generation.

Shape suffixes: P prompts, L length.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from imdm_dist.data.text_file import TextFile
from imdm_dist.data.tokenizer import Tokenizer


def read_prompts(path: Path | str, tokenizer: Tokenizer, length: int) -> Tensor:
    """Rows that begin with a prompt and are masked behind it.

    Args:
        path: UTF-8 text, one prompt a line; empty lines are passed over.
        length: L; a prompt takes at most L - 1 tokens, the begin token included, and is cut to that.

    Returns:
        int64 [P, L]: begin token, prompt, masks.

    Raises:
        ValueError: the file is missing, is no UTF-8 or holds no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no prompt file {path}: give a text file with one prompt a line")
    lines = [line for _, line in TextFile(path).lines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no prompt: put one on each line")
    rows_PL = torch.full((len(lines), length), tokenizer.mask_id)
    for row_L, ids in zip(rows_PL, tokenizer.encode(lines), strict=True):
        prompt = torch.tensor([tokenizer.bos_id, *ids][: length - 1])
        row_L[: len(prompt)] = prompt
    return rows_PL
