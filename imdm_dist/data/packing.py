"""Texts to rows of one length without padding: the sequence packing of MDLM (arXiv 2406.07524).

Every text is tokenized without special tokens and closed by a separator, all are laid end to end,
and the stream is cut into pieces of length - 2, each put between a begin token and a separator. So the
last token of a row is a separator even where a text goes on in the next row, as in the public
checkpoints. The separator is the end token, or the begin token: MDLM, DUO and ReDi take
`tokenizer.encode(eos_token)[0]`, which for BERT is [CLS], so that [SEP] does not occur in their rows.
MDLM cuts the stream anew every thousand texts and drops what is left there; here it is one stream, and
only its tail is dropped.

Shape suffixes: K rows of a chunk, L length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import numpy as np

from imdm_dist.data.token_file import token_dtype
from imdm_dist.data.tokenizer import Tokenizer


def pack(
    batches: Iterable[list[str]], tokenizer: Tokenizer, length: int, separator: Literal["begin", "end"] = "end"
) -> Iterator[np.ndarray]:
    """Pack texts into rows.

    Args:
        batches: the texts, some at a time; how they are split into batches does not change the rows.
        length: tokens in a row, 3 or more.
        separator: which token closes a text and a row.

    Yields:
        uint16 or uint32 [K, L], one chunk of rows for each batch that fills any.

    Raises:
        ValueError: length leaves no room for text.
    """
    if length < 3:
        raise ValueError(f"data.length is {length}: a row holds a begin token, text and an end token, so set 3 or more")
    separator_id = tokenizer.eos_id if separator == "end" else tokenizer.bos_id
    dtype = token_dtype(tokenizer.vocab_size)
    body = length - 2
    left = np.empty(0, dtype=dtype)
    for texts in batches:
        ids = tokenizer.encode(texts)
        count = sum(map(len, ids)) + len(ids)
        closed = chain.from_iterable(chain(one, (separator_id,)) for one in ids)
        stream = np.concatenate([left, np.fromiter(closed, dtype=dtype, count=count)])
        rows = len(stream) // body
        left = stream[rows * body :]
        if rows:
            chunk_KL = np.empty((rows, length), dtype=dtype)
            chunk_KL[:, 0] = tokenizer.bos_id
            chunk_KL[:, 1:-1] = stream[: rows * body].reshape(rows, body)
            chunk_KL[:, -1] = separator_id
            yield chunk_KL
