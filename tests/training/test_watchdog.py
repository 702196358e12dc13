"""A run in which no step ends any more ends by itself: stacks of all ranks, one line, exit code 70."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from imdm_dist.checkpoint.read import find_checkpoint, newest_checkpoint
from imdm_dist.config import Config, DataConfig, EngineConfig, TrainConfig, load_config
from imdm_dist.exit_codes import EXIT_HUNG
from imdm_dist.model.dit import DitConfig
from imdm_dist.parallel.failure import Log
from imdm_dist.training.heartbeat import LoopStatus
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from imdm_dist.training.watchdog import Watchdog
from tests.forked import Launch
from tests.runs import beat_of

QUICK = """
from imdm_dist.training import watchdog
watchdog.ANSWER_S, watchdog.INTERVAL = 2.0, 0.2
"""
FEED = """
import time
from imdm_dist.objectives.examples import DataExamples
make = DataExamples.step
def stuck_feed(self, step):
    if step == 5:
        time.sleep(1e6)
    return make(self, step)
DataExamples.step = stuck_feed
"""
UPDATE = """
import time
from imdm_dist.training.ema import Ema
update = Ema.update
def stuck_update(self, weights, done):
    if done == 5:
        time.sleep(1e6)
    update(self, weights, done)
Ema.update = stuck_update
"""
START = """
import time
from imdm_dist.training import loop, watchdog
watchdog.START_MINUTES = 0.04
loop.build_state = lambda *_: time.sleep(1e6)
"""


def launch(folder: Path, *settings: str, patches: dict[int, str], world: int = 2) -> Launch:
    """A run of many steps, with a checkpoint every 3, of which a rank has a patch."""
    patches = {rank: QUICK + patches.get(rank, "") for rank in range(world)}
    settings = ("train.steps=100000", "train.save_every=3", *settings)
    return Launch(folder, folder.parent / "data", *settings, world=world, patches=patches)


def said(errors: list[str]) -> str:
    """The one line that tells what happened."""
    lines = [line for error in errors for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, errors
    return lines[0]


def config(cache: Path, steps: int, **engine: Any) -> Config:
    return Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(cache)),
        engine=EngineConfig(**engine),
        train=TrainConfig(steps=steps, global_batch=8, log_every=1, save_every=3),
    )


def test_a_feed_that_hangs_ends_one_process_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, errors = launch(run, "train.hang_minutes=0.05", patches={0: FEED}, world=1).end()
    assert codes == [EXIT_HUNG], errors
    line = said(errors)
    assert "rank 0 stopped (at step 6, data), for 0.05 minutes nothing has moved" in line
    assert f"{run}/logs/rank-*.log" in line and "goes on from the newest checkpoint" in line
    for stacks in (errors[0], (run / "logs" / "rank-00000.log").read_text()):
        assert "in stuck_feed" in stacks and "loop.py" in stacks
    beat = beat_of(run)
    assert beat.state == "hung" and beat.step == 5
    found = newest_checkpoint(run)
    assert found is not None and found.step == 3  # none is written amid a hang
    # The same command goes on, and the result is that of a run that nothing happened to.
    assert train(config(tmp_path / "data", 8), run)
    assert train(config(tmp_path / "data", 8), tmp_path / "whole")
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (run, tmp_path / "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    ends = [find_checkpoint(folder) for folder in (run, tmp_path / "whole")]
    for quantity in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        for name in ends[0].names(quantity):
            assert torch.equal(ends[0].full(quantity, name), ends[1].full(quantity, name))


@pytest.mark.parametrize(
    ("patch", "function", "where"), [(FEED, "stuck_feed", "step 6, data"), (UPDATE, "stuck_update", "step 5, update")]
)
def test_a_rank_that_hangs_ends_all_and_is_named(tmp_path: Path, patch: str, function: str, where: str) -> None:
    """With ZeRO the others wait amid the gradients or the update."""
    run = tmp_path / "run"
    codes, errors = launch(run, "train.hang_minutes=0.05", "engine.zero_stage=2", patches={1: patch}).end()
    assert codes == [EXIT_HUNG, EXIT_HUNG], errors
    assert f"rank 1 stopped (at {where})" in said(errors)
    logs = [(run / "logs" / f"rank-{rank:05d}.log").read_text() for rank in (0, 1)]
    assert f"in {function}" in logs[1] and f"in {function}" not in logs[0] and "loop.py" in logs[0]
    found = newest_checkpoint(run)
    assert found is not None and found.step == 3
    assert train(config(tmp_path / "data", 7), run)
    assert train(config(tmp_path / "data", 7), tmp_path / "whole")
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (run, tmp_path / "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_frozen_ends_the_others(tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    started = launch(run, "train.hang_minutes=0.05", patches={})
    started.wait_for_step(run, 4)
    started.signal(victim, signal.SIGSTOP)
    started.processes[1 - victim].join(60)
    codes, errors = started.end(0)
    assert codes[1 - victim] == EXIT_HUNG and codes[victim] == -signal.SIGKILL
    assert f"rank {victim} stopped (not answering)" in said([errors[1 - victim]])
    assert "loop.py" in (run / "logs" / f"rank-{1 - victim:05d}.log").read_text()


def test_a_start_that_hangs_has_an_allowance_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, errors = launch(run, "train.hang_minutes=0.01", patches={0: START}, world=1).end()
    assert codes == [EXIT_HUNG], errors
    assert "rank 0 stopped (starting), for 0.04 minutes nothing has moved" in said(errors)


class Watched:
    """A watch whose end is only counted, under a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
        self.now, self.ends = 0.0, 0
        self.status = LoopStatus(0, 100)
        topology: Any = SimpleNamespace(first=True, rank=0, world=1)
        watch = Watchdog(self.status, minutes, topology, None, Log(Path(), 2), Path())
        self.steps: list[float] = []
        monkeypatch.setattr(watch, "_stop", SimpleNamespace(wait=self.wait))
        monkeypatch.setattr(watch, "end", self.end)
        monkeypatch.setattr("imdm_dist.training.watchdog.time.monotonic", lambda: self.now)
        self.watch = watch

    def wait(self, seconds: float) -> bool:
        """The next look comes after the next of `steps` seconds."""
        if not self.steps or self.ends:
            return True
        self.now += self.steps.pop(0)
        return False

    def end(self) -> None:
        self.ends += 1

    def looks(self, *steps: float) -> int:
        """Whether the end came within looks that lie so many seconds apart."""
        self.steps, self.ends = list(steps), 0
        self.watch._look()
        return self.ends


def test_what_counts_as_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 1.0)
    assert not watched.looks(*[1.0] * 3000)  # 50 minutes of start
    assert watched.looks(*[1.0] * 3700)
    watched.status.end_step(1)
    assert not watched.looks(*[1.0] * 59)
    assert watched.looks(*[1.0] * 62)
    watched.status.at("validating")  # any sign of life counts
    assert not watched.looks(*[1.0] * 59)
    assert not watched.looks(*[1.0] * 10, 3600.0, *[1.0] * 10)  # the process was suspended for an hour


def test_the_setting_is_checked_and_does_not_shape_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.hang_minutes is -1\.0: set it to 0 \(never\) or more"):
        load_config(Config, None, ["train.hang_minutes=-1"])
    first = config(tmp_path / "data", 2)
    assert train(first, tmp_path / "run")
    assert train(replace(first, train=replace(first.train, steps=3, hang_minutes=0.0)), tmp_path / "run")
