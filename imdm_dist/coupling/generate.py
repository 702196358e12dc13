"""Generating a coupling: each worker takes the lease of a missing shard, makes and publishes it, until all are there.

Any number of workers on any machines may call `generate` on one folder at any time, be killed and start again. A shard
is the unit of work; making one is idempotent, as its bytes do not depend on who makes it or when.

Shape suffixes: B batch, L length, P prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.coupling.lease import EXPIRY_S, Leases
from imdm_dist.coupling.manifest import (
    MANIFEST,
    check_plan,
    manifest_of,
    plan_of,
    read_manifest,
    whole_plan,
    write_manifest,
    write_plan,
)
from imdm_dist.coupling.pairs import PairSource
from imdm_dist.coupling.shard import (
    present_pairs,
    present_shards,
    shard_name,
    shard_pairs,
    write_shard,
    wrong_tokens,
)
from imdm_dist.data.token_file import TokenFile
from imdm_dist.files import make_folder, remove_leftovers

Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(start_BL int64, seed_B int64, time_B float64) -> result_BL int64, all on the CPU; a pure function."""


def generate(
    folder: Path | str,
    config: CouplingConfig,
    *,
    rollout: Rollout,
    plan: dict[str, Any],
    data: TokenFile | None = None,
    prompts_PL: Tensor | None = None,
    worker: tuple[int, int] = (0, 1),
    progress: bool = False,
    expiry_s: float = EXPIRY_S,
) -> None:
    """Make, or help to make, the coupling of `plan` in `folder`; returns when it is finished.

    Args:
        rollout: the teacher's sampler; called with at most `config.batch` rows of one shard, in order.
        plan: what `make_plan` returned for `config`.
        data: text for perturbed starts.
        prompts_PL: prompts, int64, with the mask id where to generate; they go with plain starts.
        worker: number of this one, from 0, and how many there are. Each begins with shards of its own; if more are at
            work, or not all of these, that costs time only.
        progress: show a progress bar of all workers' pairs on stderr.
        expiry_s: seconds without a renewal after which a lease of another machine's worker has lapsed.

    Raises:
        ValueError: the folder holds a coupling of other settings, a shard is damaged, or data or
            prompts do not fit the settings.
        OSError: a file cannot be written; finished shards are kept and the lease is given up.
    """
    folder = Path(folder)
    _check_inputs(config, plan, data, prompts_PL)
    source = PairSource(
        seed=config.seed, length=plan["length"], mask_id=plan["mask_id"], data=data, prompts_PL=prompts_PL
    )
    leases = Leases(folder / "leases", expiry_s=expiry_s)
    try:
        make_folder(folder)
        _agree_on_plan(folder, plan, leases)
        there = present_pairs(folder, config.shards, config.pairs)
        # smoothing=0: the mean rate of the run, for shards of other workers arrive in lumps.
        shown = {"unit": "pair", "desc": "coupling", "smoothing": 0, "disable": not progress}
        with tqdm(total=config.pairs, initial=there, **shown) as bar:
            job = _Job(folder, config, source, plan["vocab_size"], rollout, leases, bar)
            job.run(shard_order(config.shards, *worker))
        _finish(folder, plan, leases)
    finally:
        leases.remove_folder()


def _check_inputs(
    config: CouplingConfig, plan: dict[str, Any], data: TokenFile | None, prompts_PL: Tensor | None
) -> None:
    assert asdict(config).items() <= whole_plan(plan).items(), "the plan is that of another config"
    length, vocab_size = plan["length"], plan["vocab_size"]
    if prompts_PL is not None:
        if config.kind != "plain":
            raise ValueError("prompts go with plain starts: set coupling.kind=plain")
        if prompts_PL.ndim != 2 or prompts_PL.shape[1] != length or not len(prompts_PL):
            raise ValueError(
                f"prompts of shape {list(prompts_PL.shape)}, not [P, {length}]: pad with masks to the length"
            )
        if not 0 <= int(prompts_PL.min()) <= int(prompts_PL.max()) < vocab_size:
            raise ValueError(f"prompts hold tokens outside 0..{vocab_size - 1}: encode with the teacher's tokenizer")
    assert (data is not None) == (config.kind == "perturbed"), "perturbed starts, and only these, are made of text"
    if data is not None:
        for name in ("length", "vocab_size", "mask_id"):
            there, wanted = getattr(data, name), plan[name]
            if there != wanted:
                raise ValueError(f"the data's {name} is {there}, the teacher's {wanted}: use the data it learned from")


def _agree_on_plan(folder: Path, plan: dict[str, Any], leases: Leases) -> None:
    if plan_of(folder) is None:
        with leases.hold("plan"):
            if plan_of(folder) is None:
                write_plan(folder, plan)
    check_plan(folder, plan)


def shard_order(shards: int, worker: int, workers: int) -> list[int]:
    """In which order a worker wants the shards: first its own, which are every `workers`-th one, then work stealing:
    those of the others, from the end on, where they come last."""
    own = range(worker, shards, workers)
    return [*own, *(shard for shard in reversed(range(shards)) if shard not in own)]


@dataclass(frozen=True)
class _Job:
    """One worker's part in making the shards."""

    folder: Path
    config: CouplingConfig
    source: PairSource
    vocab_size: int
    rollout: Rollout
    leases: Leases
    bar: tqdm

    def run(self, order: list[int]) -> None:
        """Make shards until none is missing."""
        while True:
            there = present_shards(self.folder, self.config.shards)
            missing = [shard for shard in order if shard not in there]
            if not missing:
                self._show()
                return
            for shard in missing:
                if lease := self.leases.acquire(Path(shard_name(shard)).stem):
                    with lease:
                        self._make(shard)
                    break
            else:
                self._show(note=f"waiting for {len(missing)} shards of other workers")
                time.sleep(self.leases.poll_s)

    def _show(self, in_hand: int = 0, note: str = "") -> None:
        """Show the pairs in finished shards, whoever made them, and `in_hand` more of our own."""
        if not self.bar.disable:
            self.bar.update(present_pairs(self.folder, self.config.shards, self.config.pairs) + in_hand - self.bar.n)
            self.bar.set_postfix_str(note, refresh=bool(note))

    def _make(self, shard: int) -> None:
        path = self.folder / shard_name(shard)
        if path.exists():
            return  # finished by another worker between our look and our lease
        # A manifest that lists a shard which somebody has deleted is no longer true.
        (self.folder / MANIFEST).unlink(missing_ok=True)

        starts = self.source.starts(shard_pairs(shard, self.config.shards, self.config.pairs))
        results = []
        for first in range(0, len(starts.start_BL), self.config.batch):
            batch = slice(first, first + self.config.batch)
            start_BL = starts.start_BL[batch]
            result_BL = self.rollout(start_BL, starts.seed_B[batch], starts.time_B[batch])
            assert result_BL.shape == start_BL.shape
            if wrong := wrong_tokens(start_BL, result_BL, self.vocab_size, self.source.mask_id):
                raise ValueError(f"{path.name} is not written ({wrong}): the teacher's rollouts are no text of its own")
            results.append(result_BL)
            self._show(in_hand=first + len(start_BL))
        try:
            if not path.exists():  # else our lease lapsed while this process was suspended, and its next owner is done
                write_shard(path, starts, torch.cat(results))
        except FileNotFoundError:
            if not path.exists():  # else whoever finished took our unfinished file for a leftover
                raise


def _finish(folder: Path, plan: dict[str, Any], leases: Leases) -> None:
    """Write the manifest if it is missing, and clear what killed workers left."""
    with leases.hold("manifest"):
        if manifest_of(folder) is None:
            write_manifest(folder, plan)
        else:
            read_manifest(folder)
        # No shard is missing: no file aside and no other lease can be of use to anyone.
        remove_leftovers(folder)
        leases.clear(but="manifest")
