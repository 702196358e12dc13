"""A run in which no step ends any more ends by itself: stacks of all ranks, a checkpoint if it can be, code 70."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from imdm_dist.checkpoint.read import newest_checkpoint
from imdm_dist.config import Config, DataConfig, EngineConfig, ModelConfig, TrainConfig, load_config
from imdm_dist.parallel.failure import EXIT_HUNG, Log
from imdm_dist.training import hang as module
from imdm_dist.training.hang import HangWatch
from imdm_dist.training.heartbeat import Pulse, read_heartbeat
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from tests.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2", "data.source=synthetic",
    "train.global_batch=8", "train.log_every=1", "train.save_every=3", "train.steps=100000",
]  # fmt: skip
STUCK = """
import sys, time
{patch}
sys.argv = ["train.py", *sys.argv[1:]]
import runpy
runpy.run_path("tools/train.py", run_name="__main__")
"""
FEED = """
from imdm_dist.objectives.examples import DataExamples
make = DataExamples.step
def stuck_feed(self, step):
    if step == 5:
        time.sleep(1e6)
    return make(self, step)
DataExamples.step = stuck_feed
"""
UPDATE = """
from imdm_dist.training.ema import Ema
update = Ema.update
def stuck_update(self, weights, done):
    if done == 5:
        time.sleep(1e6)
    update(self, weights, done)
Ema.update = stuck_update
"""
SLOW_SAVE = """
from imdm_dist.checkpoint import write as saver
write = saver.write_pieces
def slow(*arguments):
    time.sleep(6)
    return write(*arguments)
saver.write_pieces = slow
"""
START = """
from imdm_dist.training import hang, loop
hang.START_MINUTES = 0.04
loop.build = lambda *_: time.sleep(1e6)
"""


def launch(folder: Path, *settings: str, patches: dict[int, str], world: int = 2) -> list[subprocess.Popen[str]]:
    """Processes of tools/train.py, joined as torchrun would join them, with the patch of their rank."""
    port, processes = free_port(), []
    for rank in range(world):
        ranks = {
            "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        around = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment = around | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", STUCK.format(patch=patches.get(rank, "")), str(folder), *SETTINGS]
        command += [f"data.cache={folder.parent / 'data'}", *settings]
        environment |= ranks if world > 1 else {}
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    return processes


def end(processes: list[subprocess.Popen[str]], timeout: float = 120.0) -> tuple[list[int], list[str]]:
    """Exit codes and what was printed, by rank."""
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def said(errors: list[str]) -> str:
    """The one line that tells what happened."""
    lines = [line for error in errors for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, errors
    return lines[0]


def config(cache: Path, steps: int, **engine: object) -> Config:
    return Config(
        model=ModelConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(cache)),
        engine=EngineConfig(**engine),
        train=TrainConfig(steps=steps, global_batch=8, log_every=1, save_every=3),
    )


def test_a_feed_that_hangs_ends_one_process_with_a_checkpoint_of_its_last_step(tmp_path):
    run = tmp_path / "run"
    codes, errors = end(launch(run, "train.hang_minutes=0.05", patches={0: FEED}, world=1))
    assert codes == [EXIT_HUNG], errors
    line = said(errors)
    assert "rank 0 stopped (at step 6, waiting for its data), for 0.05 minutes nothing has moved" in line
    assert f"{run}/logs/rank-*.log" in line and "goes on from step-00000005" in line
    for stacks in (errors[0], (run / "logs" / "rank-00000.log").read_text()):
        assert "in stuck_feed" in stacks and "loop.py" in stacks
    beat = read_heartbeat(run)
    assert beat.state == "hung" and beat.step == 5
    # The same command goes on, and the result is that of a run that nothing happened to.
    assert train(config(tmp_path / "data", 8), run)
    assert train(config(tmp_path / "data", 8), tmp_path / "whole")
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (run, tmp_path / "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    ends = [newest_checkpoint(folder) for folder in (run, tmp_path / "whole")]
    for quantity in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        for name in ends[0].names(quantity):
            assert torch.equal(ends[0].full(quantity, name), ends[1].full(quantity, name))


def test_a_rank_whose_feed_hangs_ends_all_and_is_named(tmp_path):
    """With ZeRO the others wait amid the gradients, and the weights of all are those of the last step."""
    run = tmp_path / "run"
    codes, errors = end(launch(run, "train.hang_minutes=0.05", "engine.zero_stage=2", patches={1: FEED}))
    assert codes == [EXIT_HUNG, EXIT_HUNG], errors
    assert "rank 1 stopped (at step 6, waiting for its data)" in said(errors)
    logs = [(run / "logs" / f"rank-{rank:05d}.log").read_text() for rank in (0, 1)]
    assert "in stuck_feed" in logs[1] and "in stuck_feed" not in logs[0] and "loop.py" in logs[0]
    assert "goes on from step-00000005" in said(errors)
    found = newest_checkpoint(run)
    assert found is not None and found.step == 5
    assert train(config(tmp_path / "data", 7), run)
    assert train(config(tmp_path / "data", 7), tmp_path / "whole")
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (run, tmp_path / "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_checkpoint_under_way_comes_to_its_end(tmp_path):
    """The update of step 5 hangs while that of step 3 is still being written."""
    run = tmp_path / "run"
    codes, errors = end(launch(run, "train.hang_minutes=0.05", patches={0: SLOW_SAVE, 1: UPDATE}))
    assert codes == [EXIT_HUNG, EXIT_HUNG], errors
    assert "rank 1 stopped (at step 5, amid the update)" in said(errors)
    found = newest_checkpoint(run)
    assert found is not None and found.step == 3


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_frozen_ends_the_others(tmp_path, monkeypatch, victim):
    run = tmp_path / "run"
    quick = "from imdm_dist.training import hang\nhang.ANSWER_S = 2.0"
    processes = launch(run, "train.hang_minutes=0.05", patches={0: quick, 1: quick})
    until = time.monotonic() + 120
    while not any(line["step"] >= 4 for line in read_metrics(run)):
        assert time.monotonic() < until and processes[0].poll() is None, end(processes, 1)
        time.sleep(0.02)
    processes[victim].send_signal(signal.SIGSTOP)
    other = processes[1 - victim]
    try:
        assert other.wait(60) == EXIT_HUNG
    finally:
        processes[victim].kill()
    codes, errors = end(processes)
    assert codes[victim] == -signal.SIGKILL
    assert f"rank {victim} stopped (not answering)" in said([errors[1 - victim]])
    assert "loop.py" in (run / "logs" / f"rank-{1 - victim:05d}.log").read_text()


def test_a_start_that_hangs_has_an_allowance_of_its_own(tmp_path):
    run = tmp_path / "run"
    codes, errors = end(launch(run, "train.hang_minutes=0.01", patches={0: START}, world=1))
    assert codes == [EXIT_HUNG], errors
    assert "rank 0 stopped (starting), for 0.04 minutes nothing has moved" in said(errors)
    assert "goes on from the beginning" in said(errors)


class Watched:
    """A watch whose end is only counted, under a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
        self.now, self.ends = 0.0, 0
        self.pulse = Pulse(0, 100)
        watch = HangWatch(
            self.pulse, minutes, SimpleNamespace(first=True, rank=0, world=1), None, Log(Path(), 2), Path()
        )
        self.steps: list[float] = []
        monkeypatch.setattr(watch, "_stop", SimpleNamespace(wait=self.wait))
        monkeypatch.setattr(watch, "end", self.end)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
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


def test_what_counts_as_a_hang(monkeypatch):
    watched = Watched(monkeypatch, 1.0)
    assert not watched.looks(*[1.0] * 3000)  # 50 minutes of start
    assert watched.looks(*[1.0] * 3700)
    watched.pulse.end_step(1)
    assert not watched.looks(*[1.0] * 59)
    assert watched.looks(*[1.0] * 62)
    watched.pulse.at("validating")  # any sign of life counts
    assert not watched.looks(*[1.0] * 59)
    assert not watched.looks(*[1.0] * 10, 3600.0, *[1.0] * 10)  # the process was suspended for an hour


def test_the_setting_is_checked_and_does_not_shape_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"train\.hang_minutes is -1\.0: set it to 0 \(never\) or more"):
        load_config(Config, None, ["train.hang_minutes=-1"])
    first = config(tmp_path / "data", 2)
    assert train(first, tmp_path / "run")
    assert train(replace(first, train=replace(first.train, steps=3, hang_minutes=0.0)), tmp_path / "run")
