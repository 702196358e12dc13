"""A packed data set on disk: equal-length rows of token ids, memory-mapped, with what they were made from.

A folder with `tokens.npy` [rows, length], uint16 where the vocabulary allows and else uint32, and
`meta.json`. The folder is written aside and renamed, so one that exists is whole.

Shape suffixes: K rows of a chunk, L length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imdm_dist.files import hash_json, publish_dir, read_record, refuse_lfs_pointers, sha256_file, write_json

_KEYS = ("rows", "length", "vocab_size", "mask_id", "bos_id", "eos_id", "settings", "origin", "sha256", "fingerprint")
_NOT_CONTENT = ("origin", "fingerprint")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id of the vocabulary."""
    return np.dtype("<u2" if vocab_size < 65536 else "<u4")


def _fingerprint(meta: dict[str, Any]) -> str:
    return hash_json({key: meta[key] for key in _KEYS if key not in _NOT_CONTENT})


def _without_mask(rows: Iterable[np.ndarray], mask_id: int, name: str) -> Iterator[np.ndarray]:
    """The chunks [K, L] of rows as they are; ValueError at the first row that holds the mask."""
    count = 0
    for chunk_KL in rows:
        masked_K = (chunk_KL == mask_id).any(axis=1)
        if masked_K.any():
            raise ValueError(
                f"{name}: row {count + int(masked_K.argmax()) + 1} holds the mask, id {mask_id}, which stands for no "
                "text: a word there is the tokenizer's mask_token; name another one in its tokenizer_config.json, or "
                "take that word out"
            )
        count += len(chunk_KL)
        yield chunk_KL


def _append_rows(path: Path, rows: Iterable[np.ndarray], length: int, dtype: np.dtype) -> int:
    """Write chunks [K, L] as one .npy array and return its number of rows.

    The header is written twice: numpy pads it so that the first dimension can grow in place.
    """
    count = 0
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (0, length)}
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        start = handle.tell()
        for chunk_KL in rows:
            assert chunk_KL.ndim == 2 and chunk_KL.shape[1] == length
            handle.write(np.ascontiguousarray(chunk_KL, dtype=dtype).data)
            count += len(chunk_KL)
        handle.seek(0)
        np.lib.format.write_array_header_1_0(handle, header | {"shape": (count, length)})
        assert handle.tell() == start
    return count


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Rows of token ids, read from disk as they are asked for."""

    path: Path
    """The folder."""
    mapped: np.memmap
    """What `tokens` gives."""
    length: int
    """Tokens in a row."""
    vocab_size: int
    """Ids of the vocabulary, the mask's included."""
    mask_id: int
    """Id of the mask; no row contains it."""
    bos_id: int | None
    """Id every row begins with; None where rows have no such token."""
    eos_id: int | None
    """Id every row ends with; None where rows have no such token."""
    fingerprint: str
    """SHA-256 over the tokens and what they mean, wherever they came from: equal rows have equal fingerprints."""
    settings: dict[str, Any]
    """What the ids mean: tokenizer and split."""
    origin: dict[str, Any]
    """Where the rows came from: text and packing. For a reader, and not part of the fingerprint."""
    sha256: str
    """SHA-256 of tokens.npy when it was written."""

    @property
    def tokens(self) -> np.ndarray:
        """uint16 or uint32 [rows, length], memory-mapped read-only.

        Raises:
            ValueError: the file has shrunk since it was opened. To read behind its end would kill the process (SIGBUS).
        """
        mapping: Any = self.mapped.base  # an mmap.mmap
        if mapping.size() < self.mapped.offset + self.mapped.nbytes:  # of the file that is mapped, under any name
            raise ValueError(
                f"{self.path}/tokens.npy was cut off while it was in use: remove {self.path} and prepare the data again"
            )
        return self.mapped

    @property
    def text_positions(self) -> slice:
        """Positions of a row that text decides: all, but for the begin and the end token that packing forces.

        Separators within a row are of them: where a text ends is the text's doing, and has to be predicted.
        """
        return slice(0 if self.bos_id is None else 1, self.length - (0 if self.eos_id is None else 1))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.mapped)

    @classmethod
    def write(
        cls,
        path: Path | str,
        rows: np.ndarray | Iterable[np.ndarray],
        *,
        length: int,
        vocab_size: int,
        mask_id: int,
        bos_id: int | None,
        eos_id: int | None,
        settings: dict[str, Any],
        origin: dict[str, Any] | None = None,
    ) -> TokenFile:
        """Write a token file and open it; on an error nothing is left behind.

        Args:
            path: folder to make; one that exists is replaced.
            rows: integer array [rows, length], or chunks [K, length] of it, each held only while it is written.
            length, vocab_size, mask_id, bos_id, eos_id: see the attributes.
            settings: JSON values that say what the ids mean; they enter the fingerprint.
            origin: JSON values that say where the rows came from; they do not.

        Raises:
            ValueError: there are no rows, or one holds the mask.
        """
        path = Path(path)
        chunks = _without_mask([rows] if isinstance(rows, np.ndarray) else rows, mask_id, path.name)
        with publish_dir(path) as aside:
            count = _append_rows(aside / "tokens.npy", chunks, length, token_dtype(vocab_size))
            if count == 0:
                raise ValueError(
                    f"{path.name}: the text is shorter than a row of data.length={length}: give more or lower it"
                )
            meta: dict[str, Any] = {
                "rows": count,
                "length": length,
                "vocab_size": vocab_size,
                "mask_id": mask_id,
                "bos_id": bos_id,
                "eos_id": eos_id,
                "settings": settings,
                "origin": origin or {},
                "sha256": sha256_file(aside / "tokens.npy"),
            }
            write_json(aside / "meta.json", meta | {"fingerprint": _fingerprint(meta)})
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str) -> TokenFile:
        """Open a token file; only its size, header and settings are checked (`verify` checks every byte).

        Raises:
            ValueError: a part is missing, truncated or at odds with the rest.
        """
        path = Path(path)
        remedy = f"remove {path} and prepare the data again"
        if not (path / "meta.json").is_file() or not (path / "tokens.npy").is_file():
            raise ValueError(f"{path} is no token file (tokens.npy or meta.json is missing): {remedy}")
        meta = read_record(path / "meta.json")
        if meta is None or sorted(meta) != sorted(_KEYS) or meta["fingerprint"] != _fingerprint(meta):
            raise ValueError(f"{path}/meta.json is not as it was written: {remedy}")
        refuse_lfs_pointers(path / "tokens.npy")
        try:
            tokens = np.load(path / "tokens.npy", mmap_mode="r")
        except (ValueError, EOFError):
            raise ValueError(f"{path}/tokens.npy is truncated or damaged: {remedy}") from None
        whole = tokens.offset + tokens.nbytes
        if (
            tokens.shape != (meta["rows"], meta["length"])
            or tokens.dtype != token_dtype(meta["vocab_size"])
            or (path / "tokens.npy").stat().st_size != whole
        ):
            raise ValueError(f"{path}/tokens.npy is not the array that meta.json describes: {remedy}")
        kept = {key: meta[key] for key in _KEYS if key != "rows"}
        return cls(path=path, mapped=tokens, **kept)

    def verify(self) -> None:
        """Read every byte and compare it with the checksum taken when it was written.

        Raises:
            ValueError: the bytes have changed.
        """
        if sha256_file(self.path / "tokens.npy") != self.sha256:
            raise ValueError(f"{self.path}/tokens.npy has changed: remove {self.path} and prepare the data again")

    def take(self, indices: np.ndarray | Tensor | list[int]) -> Tensor:
        """The rows of these indices, each in [0, rows): int64 [n, length] on the CPU. Raises as `tokens` does."""
        return torch.from_numpy(self.tokens[np.asarray(indices)].astype(np.int64))
