"""Launches of several processes from the command line: signals, budgets, failures, and who says what."""

from __future__ import annotations

import queue
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from imdm_dist.checkpoint.read import newest_checkpoint
from imdm_dist.config import Config, DataConfig, TrainConfig
from imdm_dist.config.training import EngineConfig
from imdm_dist.model.dit import DitConfig
from imdm_dist.parallel import failure
from imdm_dist.signals import EXIT_STOPPED
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from tests.forked import Launch

FAULTY = """
import sys
from imdm_dist.training.ema import Ema
update = Ema.update
def faulty(self, weights, done):
    if done == 3:
        raise RuntimeError("boom")
    update(self, weights, done)
Ema.update = faulty
"""


def launch(folder: Path, cache: Path, *settings: str, patches: dict[int, str] | None = None) -> Launch:
    """Two ranks that save at the end alone."""
    return Launch(folder, cache, "train.save_every=1000000", *settings, patches=patches)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_a_signal_to_any_rank_saves_and_stops_all_and_the_run_goes_on_as_if_nothing_had_been(tmp_path, cache):
    stopped = tmp_path / "stopped"
    started = launch(stopped, cache, "train.steps=100000", "engine.zero_stage=2")
    started.wait_for_step(stopped, 5)
    started.signal(1, signal.SIGUSR1)
    codes, errors = started.end()
    assert codes == [EXIT_STOPPED, EXIT_STOPPED], errors
    assert "(a signal to another rank): run the same command to go on" in errors[0]
    found = newest_checkpoint(stopped)
    assert found is not None and found.step == read_metrics(stopped)[-1]["step"]
    # To the end in another division of the work, against a run that nothing happened to.
    last = found.step + 10
    config = Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(cache)),
        engine=EngineConfig(micro_batch=4),
        train=TrainConfig(steps=last, global_batch=8, log_every=1),
    )
    assert train(config, stopped)
    assert train(config, tmp_path / "whole")
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (stopped, tmp_path / "whole")]
    assert len(losses[0]) == last
    assert losses[0][: found.step] == pytest.approx(losses[1][: found.step], rel=1e-4)


def test_a_failing_rank_ends_all_soon_and_its_error_is_shown(tmp_path, cache):
    started = time.monotonic()
    codes, errors = launch(tmp_path / "run", cache, "train.steps=100000", patches={1: FAULTY}).end()
    assert time.monotonic() - started < 110
    assert 0 not in codes
    assert "rank 1 failed: RuntimeError: boom (<string>:7)" in errors[0]
    assert "boom" in (tmp_path / "run" / "logs" / "rank-00001.log").read_text() + errors[1]


@pytest.mark.parametrize(("error", "code"), [(ValueError, 2), (OSError, 2), (RuntimeError, 1)])
def test_all_ranks_end_with_the_code_of_the_error(monkeypatch, capfd, error, code):
    # What the user has to mend is not started again (launch/requeue.py), whichever rank found it.
    ended: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(failure.os, "_exit", ended.put)
    monkeypatch.setattr(failure, "INTERVAL", 0.01)
    store = dist.HashStore()
    other, failing = (failure.FailureWatch(SimpleNamespace(rank=rank), store) for rank in (0, 1))
    try:
        raise error("no such text")
    except error as raised:
        failing.tell(raised)
    assert ended.get(timeout=30) == code
    other.close()
    assert f"error: rank 1 failed: {error.__name__}: no such text (test_ranks.py:" in capfd.readouterr().err


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_vanishes_ends_the_other(tmp_path, cache, victim):
    ranks = launch(tmp_path / "run", cache, "train.steps=100000")
    ranks.wait_for_step(tmp_path / "run", 3)
    ranks.processes[victim].kill()
    started = time.monotonic()
    codes, _ = ranks.end(60)
    assert time.monotonic() - started < 60
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] > 0


def test_what_the_user_got_wrong_is_said_once(tmp_path, cache):
    lingers = dict.fromkeys((0, 1), "from imdm_dist.parallel import topology\ntopology.LINGER = 1.0")
    for settings, message in (
        (["train.steps=0"], "error: train.steps is 0"),
        (["engine.tensor_parallel=4"], "error: engine.tensor_parallel=4 must divide both the 2 ranks"),
        (["train.global_batch=7", "train.steps=1"], "error: train.global_batch=7 is no multiple of the 2"),
    ):
        codes, errors = launch(tmp_path / "run", cache, *settings, patches=lingers).end()
        assert codes == [2, 2]
        assert errors[0].splitlines()[-1].startswith(message)
        assert "error:" not in errors[1]
        assert not (tmp_path / "run").exists()


def test_the_time_budget_stops_a_run_that_is_then_resumed_exactly(tmp_path, cache):
    def config(steps, **settings):
        return Config(
            model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2, dropout=0.1),
            data=DataConfig(source="synthetic", cache=str(cache)),
            train=TrainConfig(steps=steps, global_batch=8, log_every=1, **settings),
        )

    assert not train(config(100000, time_budget=0.02), tmp_path / "cut")
    found = newest_checkpoint(tmp_path / "cut")
    assert found is not None and 0 < found.step < 100000
    assert train(config(found.step + 5), tmp_path / "cut")
    assert train(config(found.step + 5), tmp_path / "whole")
    ends = [newest_checkpoint(tmp_path / name) for name in ("cut", "whole")]
    for quantity in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        for name in ends[0].names(quantity):
            assert torch.equal(ends[0].full(quantity, name), ends[1].full(quantity, name))


def test_handlers_are_put_back_and_called(tmp_path, cache):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        config = Config(
            model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
            data=DataConfig(source="synthetic", cache=str(cache)),
            train=TrainConfig(steps=3, global_batch=8),
        )
        handler = signal.getsignal(signal.SIGUSR1)
        assert train(config, tmp_path / "run")
        assert signal.getsignal(signal.SIGUSR1) is handler
    finally:
        signal.signal(signal.SIGUSR1, before)
