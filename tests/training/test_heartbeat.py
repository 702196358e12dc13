"""Watching a run from outside: what heartbeat.json says, what it costs, and what ranks call their logs."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imdm_dist.config import Config, DataConfig, TrainConfig
from imdm_dist.model.dit import DitConfig
from imdm_dist.parallel.failure import log_path
from imdm_dist.training import heartbeat as module
from imdm_dist.training.ema import Ema
from imdm_dist.training.heartbeat import LoopStatus, heartbeat, read_heartbeat, write_heartbeat
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from tests.runs import beat_of

RANK_0: Any = SimpleNamespace(first=True, rank=0, world=4)


def tiny(home: Path, **settings: Any) -> Config:
    return Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(home)),
        train=TrainConfig(**{"steps": 6, "global_batch": 8, "log_every": 1, "save_every": 2} | settings),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_a_run_beats_from_its_start_to_its_end(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    states, update = set(), Ema.update

    def slow(self: Ema, weights: Any, done: int) -> None:
        time.sleep(0.05)
        states.add(beat_of(tmp_path / "run").state)
        update(self, weights, done)

    monkeypatch.setattr(Ema, "update", slow)
    assert read_heartbeat(tmp_path / "run") is None
    train(tiny(cache), tmp_path / "run")
    assert states == {"training"}
    beat = beat_of(tmp_path / "run")
    assert (beat.state, beat.step, beat.last, beat.world, beat.ended) == ("finished", 6, 6, 1, True)
    assert beat.loss == read_metrics(tmp_path / "run")[-1]["loss"] and (beat.tokens_per_s or 0) > 0
    assert 0.05 < (beat.seconds_per_step or 0) < 5 and beat.time_left == 0
    assert beat.age < 60


def test_a_heartbeat_that_a_power_cut_took_is_none(tmp_path: Path) -> None:
    (tmp_path / "heartbeat.json").write_bytes(b"\0" * 20)
    assert read_heartbeat(tmp_path) is None


def test_a_run_that_stops_or_fails_says_so(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(cache, steps=100000, time_budget=0.01), tmp_path / "run")
    beat = beat_of(tmp_path / "run")
    assert beat.state == "stopped" and beat.ended and 0 < beat.step < beat.last

    def broken(self: Ema, weights: Any, done: int) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Ema, "update", broken)
    with pytest.raises(RuntimeError):
        train(tiny(cache, steps=100000), tmp_path / "run")
    assert beat_of(tmp_path / "run").state == "failed"


def test_age_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    status = LoopStatus(10, 100)
    write_heartbeat(status, tmp_path, 4)
    beat = beat_of(tmp_path)
    assert (beat.state, beat.step, beat.job, beat.restarts, beat.world) == ("starting", 10, "123", 2, 4)
    assert beat.seconds_per_step is None and beat.time_left is None and not beat.ended
    clock = iter([5.0, 7.0, 9.0])
    monkeypatch.setattr("imdm_dist.training.heartbeat.time.monotonic", lambda: next(clock))
    for done in (11, 12, 13):
        status.end_step(done)
    status.at("saving")
    status.record(1.5, 1000.0)
    write_heartbeat(status, tmp_path, 4)
    beat = beat_of(tmp_path)
    assert (beat.state, beat.step, beat.loss, beat.seconds_per_step) == ("saving", 13, 1.5, 2.0)
    assert beat.time_left == 87 * 2.0
    monkeypatch.setattr("imdm_dist.training.heartbeat.time.time", lambda: beat.time + 42.0)
    assert beat.age == 42.0
    monkeypatch.setattr(
        "imdm_dist.training.heartbeat.time.time", lambda: beat.time - 42.0
    )  # a host whose clock is behind
    assert beat.age == 0.0
    status.end = "hung"
    write_heartbeat(status, tmp_path, 4)
    assert beat_of(tmp_path).state == "hung"


def test_a_folder_that_cannot_be_written_does_not_end_a_run(tmp_path: Path) -> None:
    with heartbeat(LoopStatus(0, 1), tmp_path / "gone", RANK_0):
        pass
    (tmp_path / ".heartbeat.json.next").mkdir()
    with heartbeat(LoopStatus(0, 1), tmp_path, RANK_0):
        pass
    assert read_heartbeat(tmp_path) is None


def test_what_is_no_heartbeat_is_named(tmp_path: Path) -> None:
    (tmp_path / "heartbeat.json").write_text('{"step": 1}')
    with pytest.raises(ValueError, match=r"heartbeat\.json is no heartbeat .*: remove it"):
        read_heartbeat(tmp_path)


def test_marks_cost_nothing_beside_a_step() -> None:
    status = LoopStatus(0, 10)
    started = time.perf_counter()
    for done in range(1, 10_001):
        for part in ("gradients", "update", "record", "validating", "saving"):
            status.at(part)
        status.end_step(done)
    assert (time.perf_counter() - started) / 10_000 < 1e-4  # seconds a step; some 2e-6 on an idle core


def test_logs_are_named_by_job_and_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert log_path(tmp_path, 1) == tmp_path / "logs" / "rank-00001.log"
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    assert log_path(tmp_path, 1).name == "job-123-rank-00001.log"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert log_path(tmp_path, 1).name == "job-123-rank-00001.log"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert log_path(tmp_path, 1).name == "job-123-restart-2-rank-00001.log"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "120")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert log_path(tmp_path, 1).name == "job-120_4-restart-2-rank-00001.log"
