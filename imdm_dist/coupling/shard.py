"""Shards: the parquet files of a coupling, each with a contiguous range of pairs.

The bytes are a function of the pairs and of the pyarrow version: encoding, compression and row
groups are fixed and nothing else is written. Pages carry checksums, so a flipped bit is found on
reading. A shard is published by rename: a file of that name is always whole.

Shape suffixes: B pairs of the shard, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from imdm_dist.coupling.pairs import Starts
from imdm_dist.files import publish_file, refuse_lfs_pointers

Tokens = Tensor | NDArray[np.integer[Any]]

ROW_GROUP = 1024
"""Rows per row group: what a streaming reader holds at a time."""


@dataclass(frozen=True)
class Shard:
    """The pairs of one shard, as numpy arrays."""

    index_B: NDArray[np.int64]
    seed_B: NDArray[np.int64]
    time_B: NDArray[np.float64]
    start_BL: NDArray[np.int32]
    result_BL: NDArray[np.int32]


def shard_name(shard: int) -> str:
    """File name of shard number `shard`."""
    return f"shard-{shard:05d}.parquet"


def shard_pairs(shard: int, shards: int, pairs: int) -> range:
    """Numbers of the pairs of shard number `shard`: contiguous, and sizes differ by at most one."""
    return range(shard * pairs // shards, (shard + 1) * pairs // shards)


def present_shards(folder: Path, shards: int) -> set[int]:
    """Numbers of the shards that are in `folder`."""
    names = {entry.name for entry in folder.iterdir()}
    return {shard for shard in range(shards) if shard_name(shard) in names}


def present_pairs(folder: Path, shards: int, pairs: int) -> int:
    """How many pairs are in these shards."""
    return sum(len(shard_pairs(shard, shards, pairs)) for shard in present_shards(folder, shards))


def schema(length: int) -> pa.Schema:
    """Columns of a shard with sequences of `length` tokens."""
    tokens = pa.list_(pa.field("item", pa.int32(), nullable=False), length)
    return pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("time", pa.float64(), nullable=False),
            pa.field("start", tokens, nullable=False),
            pa.field("result", tokens, nullable=False),
        ]
    )


def write_shard(path: Path, starts: Starts, result_BL: Tensor) -> None:
    """Publish the pairs `starts` -> `result_BL` (int64) as `path`.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing of it is left behind.
    """
    columns = schema(starts.start_BL.shape[1])

    def tokens(name: str, tokens_BL: Tensor) -> pa.Array:
        flat = pa.array(tokens_BL.to("cpu").numpy().astype(np.int32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=columns.field(name).type)

    table = pa.Table.from_arrays(
        [
            pa.array(starts.index_B.numpy()),
            pa.array(starts.seed_B.numpy()),
            pa.array(starts.time_B.numpy()),
            tokens("start", starts.start_BL),
            tokens("result", result_BL),
        ],
        schema=columns,
    )
    with publish_file(path) as aside:
        pq.write_table(
            table,
            aside,
            version="2.6",
            row_group_size=ROW_GROUP,
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            write_page_checksum=True,
        )


def read_shard(path: Path, numbers: range, length: int) -> Shard:
    """Read the shard that holds the pairs with these numbers, of `length` tokens each.

    Raises:
        ValueError: the file is missing or damaged, or holds other pairs or sequences of another length.
    """
    refuse_lfs_pointers(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, " ".join(str(error).split()) or type(error).__name__) from None
    if table.schema.names != schema(length).names or table.schema.types != schema(length).types:
        raise damaged(path, f"its columns are not those of a shard of length {length}")

    def tokens(name: str) -> NDArray[np.int32]:
        chunks = table[name].chunks
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]) if chunks else np.empty(0, np.int32)
        return flat.reshape(-1, length)

    shard = Shard(
        index_B=table["index"].to_numpy(),
        seed_B=table["seed"].to_numpy(),
        time_B=table["time"].to_numpy(),
        start_BL=tokens("start"),
        result_BL=tokens("result"),
    )
    if not np.array_equal(shard.index_B, numbers):
        raise damaged(path, "it holds other pairs than it should")
    return shard


def wrong_tokens(start_BL: Tokens, result_BL: Tokens, vocab_size: int, mask_id: int) -> str:
    """What is wrong with pairs as tokens of a vocabulary; empty if nothing is.

    A result is made of tokens alone and keeps what its start shows.
    """
    for name, tokens in (("starts", start_BL), ("results", result_BL)):
        if bool(((tokens < 0) | (tokens >= vocab_size)).any()):
            return f"its {name} hold ids outside 0..{vocab_size - 1}"
    if bool((result_BL == mask_id).any()):
        return "its results hold the mask"
    if bool(((start_BL != mask_id) & (start_BL != result_BL)).any()):
        return "its results differ from what their starts show"
    return ""


def damaged(path: Path, cause: str) -> ValueError:
    """The error of a shard that cannot be trusted."""
    return ValueError(f"{path} is damaged ({cause}): delete it and run gen_coupling again, it makes what is missing")
