"""Reading a finished coupling into memory, for training.

Shape suffixes: P pairs of the coupling, K pairs taken, L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdm_dist.coupling.manifest import open_shard, read_manifest, verify
from imdm_dist.coupling.shard import shard_pairs


@dataclass(frozen=True)
class Coupling:
    """All pairs of a coupling in memory, tokens in the smallest integers that hold the vocabulary."""

    plan: dict[str, Any]
    """Every setting the pairs were made by."""
    digest: str
    """Identity of the coupling: a hash of its shards' hashes."""
    start_PL: NDArray[np.integer[Any]]
    """Tokens x_t, with the mask id where the teacher filled in."""
    result_PL: NDArray[np.integer[Any]]
    """Tokens the teacher arrived at."""
    time_P: NDArray[np.float64]
    """Times t of the starts."""
    seed_P: NDArray[np.int64]
    """Noise seeds of the pairs."""

    @classmethod
    def open(cls, folder: Path | str, *, verify_checksums: bool = False) -> Coupling:
        """Load the coupling in `folder`; with `verify_checksums` every byte is checked against the manifest first.

        Raises:
            ValueError: the coupling is not there, unfinished or damaged.
        """
        folder = Path(folder)
        manifest = verify(folder) if verify_checksums else read_manifest(folder)
        plan = manifest["plan"]
        pairs, length = plan["pairs"], plan["length"]
        small = np.uint8 if plan["vocab_size"] <= 2**8 else np.uint16 if plan["vocab_size"] <= 2**16 else np.int32
        start_PL = np.empty((pairs, length), small)
        result_PL = np.empty((pairs, length), small)
        time_P = np.empty(pairs, np.float64)
        seed_P = np.empty(pairs, np.int64)
        for number in range(plan["shards"]):
            numbers = shard_pairs(number, plan["shards"], pairs)
            shard = open_shard(folder, plan, number)
            rows = slice(numbers.start, numbers.stop)
            start_PL[rows] = shard.start_BL
            result_PL[rows] = shard.result_BL
            time_P[rows] = shard.time_B
            seed_P[rows] = shard.seed_B
        return cls(plan, manifest["digest"], start_PL, result_PL, time_P, seed_P)

    def __len__(self) -> int:
        return len(self.seed_P)

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return int(self.plan["length"])

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, the mask included."""
        return int(self.plan["vocab_size"])

    @property
    def mask_id(self) -> int:
        """Id of the mask."""
        return int(self.plan["mask_id"])

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> dict[str, Tensor]:
        """Pairs by number: start_KL and result_KL (int64), time_K (float64), seed_K (int64)."""
        index_K = np.asarray(indices, np.int64)
        return {
            "start_KL": torch.from_numpy(self.start_PL[index_K].astype(np.int64)),
            "result_KL": torch.from_numpy(self.result_PL[index_K].astype(np.int64)),
            "time_K": torch.from_numpy(self.time_P[index_K]),
            "seed_K": torch.from_numpy(self.seed_P[index_K]),
        }
