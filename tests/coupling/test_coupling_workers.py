"""Several processes on one coupling: killed, suspended or undisturbed, they give the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.coupling import Coupling, generate, make_plan
from imdm_dist.coupling.generate import shard_order
from imdm_dist.coupling.shard import shard_name
from imdm_dist.files import hash_json
from tests.forked import CONTEXT

LENGTH, VOCAB, MASK = 6, 50, 49
CONFIG = CouplingConfig(pairs=90, shards=24, steps=4, kind="plain", batch=2)


def work(folder: Path, nap_s: float, expiry_s: float = 90.0, die_writing: bool = False) -> None:
    """What a worker process does; with `die_writing` it is killed half way through its first shard's file."""

    def rollout(start_BL: Tensor, seed_B: Tensor, time_B: Tensor) -> Tensor:
        time.sleep(nap_s)
        return (seed_B[:, None] >> torch.arange(LENGTH)) % (VOCAB - 1)

    def half_a_file(table: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"PAR1")
        os.kill(os.getpid(), signal.SIGKILL)

    if die_writing:
        pq.write_table = half_a_file
    plan = make_plan(
        CONFIG, teacher="t", data=None, vocab_size=VOCAB, mask_id=MASK, length=LENGTH, device="cpu", threads=1
    )
    generate(folder, CONFIG, rollout=rollout, plan=plan, expiry_s=expiry_s)


def start(folder: Path, workers: int = 1, nap_s: float = 0.0, **settings: Any) -> list[ForkServerProcess]:
    processes = [CONTEXT.Process(target=work, args=(folder, nap_s), kwargs=settings) for _ in range(workers)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[ForkServerProcess]) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def wait_for_shards(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(list(folder.glob("shard-*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def content(folder: Path) -> dict[str, str]:
    """Every file, folders included, by name; of the manifest all but the versions."""
    found = {path.name: path.read_bytes().hex() if path.is_file() else "folder" for path in folder.rglob("*")}
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["versions"]
    return found | {"manifest.json": hash_json(manifest)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one worker gives in one go."""
    folder = tmp_path_factory.mktemp("one worker")
    assert finish(start(folder)) == [0]
    assert len(set(Coupling.open(folder, verify_checksums=True).seed_P.tolist())) == CONFIG.pairs
    assert sorted(content(folder)) == ["coupling.json", "manifest.json", *map(shard_name, range(CONFIG.shards))]
    return content(folder)


def test_three_workers(tmp_path: Path, expected: dict[str, str]) -> None:
    assert finish(start(tmp_path, workers=3, nap_s=0.005)) == [0, 0, 0]
    assert content(tmp_path) == expected


def test_workers_killed_three_times_at_any_moment(tmp_path: Path, expected: dict[str, str]) -> None:
    exits: list[int | None] = []
    for round_number in range(3):
        processes = start(tmp_path, workers=3, nap_s=0.04)
        wait_for_shards(tmp_path, 4 * round_number + 3)
        time.sleep(random.uniform(0, 0.1))
        for process in processes:
            process.kill()
        exits += finish(processes)
    assert exits.count(-signal.SIGKILL) >= 6
    assert finish(start(tmp_path, workers=3)) == [0, 0, 0]
    assert content(tmp_path) == expected


def test_workers_killed_while_they_write(tmp_path: Path, expected: dict[str, str]) -> None:
    assert finish(start(tmp_path, workers=2, die_writing=True)) == [-signal.SIGKILL, -signal.SIGKILL]
    assert list(tmp_path.glob(".shard-*.tmp"))
    assert list(tmp_path.glob("leases/*.lease"))
    assert finish(start(tmp_path, workers=2)) == [0, 0]
    assert content(tmp_path) == expected


def test_a_suspended_worker_is_overtaken_and_does_no_harm_when_it_wakes(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    (sleeper,) = start(tmp_path, nap_s=0.05, expiry_s=1.0)
    wait_for_shards(tmp_path, 1)
    assert sleeper.pid is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        assert finish(start(tmp_path, expiry_s=1.0)) == [0]
        assert content(tmp_path) == expected
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    assert finish([sleeper]) == [0]
    assert content(tmp_path) == expected


def test_the_lease_of_a_foreign_host_that_fell_silent_is_taken_over(tmp_path: Path, expected: dict[str, str]) -> None:
    (tmp_path / "leases").mkdir()
    foreign = {"host": "elsewhere", "pid": 1, "started": "5"}
    (tmp_path / "leases" / "shard-00005.lease").write_text(json.dumps(foreign))
    before = time.monotonic()
    assert finish(start(tmp_path, expiry_s=0.5)) == [0]
    assert time.monotonic() - before >= 0.5
    assert content(tmp_path) == expected


def test_workers_begin_with_shards_of_their_own_and_steal_at_the_end() -> None:
    orders = [shard_order(8, worker, 3) for worker in range(3)]
    assert orders == [[0, 3, 6, 7, 5, 4, 2, 1], [1, 4, 7, 6, 5, 3, 2, 0], [2, 5, 7, 6, 4, 3, 1, 0]]
    assert shard_order(2, 4, 5) == [1, 0]  # more workers than shards
