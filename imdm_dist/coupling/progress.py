"""Progress of a coupling: shards that are there, pairs a second, workers of all machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from imdm_dist.coupling.lease import leases_by_host
from imdm_dist.coupling.manifest import PLAN, manifest_of, read_plan
from imdm_dist.coupling.shard import present_shards, shard_name, shard_pairs


@dataclass(frozen=True)
class CouplingProgress:
    """How far a coupling is."""

    shards: int
    """In all."""
    shards_there: int
    pairs: int
    """In all."""
    pairs_there: int
    """In finished shards."""
    pairs_per_s: float | None
    """Over the newest shards, or from the beginning, by the clock of the file system; None before every worker has had
    time for its first, and where nobody works: a copy's files have other times."""
    workers: Counter[str]
    """Leases by host: shards that are being made, or were when their worker died."""
    finished: bool

    @property
    def time_left(self) -> float | None:
        """Seconds at this pace."""
        return None if not self.pairs_per_s else (self.pairs - self.pairs_there) / self.pairs_per_s

    @property
    def text(self) -> str:
        """In words, but for the time left."""
        rate = f", {self.pairs_per_s:.3g} pairs/s" if self.pairs_per_s and not self.finished else ""
        hosts = ", ".join(f"{host} {count}" for host, count in sorted(self.workers.items())) or "nobody"
        end = "finished" if self.finished else f"in hand: {hosts}"
        return f"{self.shards_there} of {self.shards} shards, {self.pairs_there:,} of {self.pairs:,} pairs{rate}; {end}"


def coupling_progress(folder: Path | str) -> CouplingProgress | None:
    """How far the coupling in a folder is; None if it has not begun."""
    folder = Path(folder)
    plan = read_plan(folder)
    if plan is None:
        return None
    shards, pairs = plan["shards"], plan["pairs"]
    there = present_shards(folder, shards)
    counts = {shard: len(shard_pairs(shard, shards, pairs)) for shard in there}
    workers = leases_by_host(folder / "leases")
    # Of one file system's clock: shards are made on many machines. Those of all workers come at about the same time, so
    # the pace is taken over several rounds of them, or from the beginning.
    recent = max(_RECENT, _ROUNDS * workers.total())
    made = sorted((folder.joinpath(shard_name(shard)).stat().st_mtime, shard) for shard in there)
    rate = None
    if len(made) >= workers.total() > 0:
        since = made[-recent - 1][0] if len(made) > recent else (folder / PLAN).stat().st_mtime
        seconds = made[-1][0] - since
        rate = sum(counts[shard] for _, shard in made[-recent:]) / seconds if seconds > 0 else None
    return CouplingProgress(
        shards=shards,
        shards_there=len(there),
        pairs=pairs,
        pairs_there=sum(counts.values()),
        pairs_per_s=rate,
        workers=workers,
        finished=manifest_of(folder) is not None,
    )


_RECENT = 64
_ROUNDS = 8
"""Shards over which the pace is taken: so many, or so many of each worker."""
