"""Kill training at random instants, many times: a whole checkpoint is always there, and the end is the same.

python -m tests.kill_fuzz --kills 100 --seed 0            one process, saving in the background
python -m tests.kill_fuzz --kills 20 --seed 0 --world 2   a random one of two ranks is killed
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from imdm_dist.checkpoint.read import newest_checkpoint
from imdm_dist.config import Config, DataConfig, EngineConfig, MaskConfig, TrainConfig
from imdm_dist.model.dit import DitConfig
from imdm_dist.parallel.environment import LaunchedProcess
from tests.parity import bits_equal, curve

LONGEST = 0.6
"""Seconds within which a run is killed after it has begun to train (nine of ten times) or been started."""


def settings(home: Path, world: int, steps: int) -> Config:
    """A run that spends much of its time on saving."""
    return Config(
        model=DitConfig(
            size="custom", hidden_dim=64, n_blocks=2, n_heads=2, mask=MaskConfig(kind="infinite", noise_dim=32)
        ),
        data=DataConfig(source="synthetic", cache=str(home / "data")),
        engine=EngineConfig(zero_stage=2 if world > 1 else 0),
        train=TrainConfig(steps=steps, global_batch=8, log_every=5, save_every=5, keep_last=2),
    )


def work(place: LaunchedProcess, config: Config, folder: str) -> None:
    """One rank."""
    os.environ |= {"OMP_NUM_THREADS": "1", "LOCAL_RANK": str(place.local_rank)}
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    from imdm_dist.training.loop import train

    train(config, folder, place)


def launch(
    context: ForkServerContext, config: Config, folder: Path, world: int, meeting: Path
) -> Sequence[BaseProcess]:
    """Start all ranks."""
    meeting.unlink(missing_ok=True)
    places = [LaunchedProcess(rank, world, rank, f"file://{meeting}" if world > 1 else "") for rank in range(world)]
    processes = [context.Process(target=work, args=(place, config, str(folder))) for place in places]
    for process in processes:
        process.start()
    return processes


def wait_until_training(folder: Path, processes: Sequence[BaseProcess]) -> None:
    """Wait until a run that was just started opens its metrics, which is the last thing before its first step."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_ino if metrics.exists() else 0
    while (not metrics.exists() or metrics.stat().st_ino == before) and processes[0].is_alive():
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--world", type=int, default=1, help="ranks (1)")
    parser.add_argument("--steps", type=int, default=400, help="steps of a run, which is begun anew as needed (400)")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "imdm_dist.training.loop"])
    chance = random.Random(arguments.seed)
    home = Path(tempfile.mkdtemp())
    config = settings(home, arguments.world, arguments.steps)
    world = arguments.world

    def to_the_end(folder: Path) -> None:
        processes = launch(context, config, folder, world, home / "meet")
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * world

    to_the_end(home / "whole")
    whole = curve(home / "whole")
    kills, runs = 0, 0
    during: Counter[str] = Counter()
    while kills < arguments.kills:
        folder, before = home / f"run{runs}", 0
        while kills < arguments.kills:
            processes = launch(context, config, folder, world, home / "meet")
            if chance.random() < 0.9:
                wait_until_training(folder, processes)
            time.sleep(chance.uniform(0, LONGEST))
            if all(process.exitcode == 0 for process in processes):
                break
            victim = chance.choice(processes)
            victim.kill()
            victim.join()
            for process in processes:
                process.kill()
                process.join()
            kills += 1
            found = newest_checkpoint(folder)
            step = found.step if found else 0
            assert step >= before, f"kill {kills}: the newest whole checkpoint went back from {before} to {step}"
            saving = any(folder.glob(".step-*.tmp"))
            during["while saving" if saving else "with progress" if step > before else "before the first save"] += 1
            before = step
        to_the_end(folder)
        assert bits_equal(curve(folder), whole), f"run {runs} ended with other bits than the unbroken one"
        assert not list(folder.glob(".step-*.tmp")), "a killed save was left behind"
        shutil.rmtree(folder)
        runs += 1
    told = ", ".join(f"{count} {what}" for what, count in sorted(during.items()))
    print(f"{kills} kills of {world} rank(s), seed {arguments.seed}, {runs} runs of {arguments.steps} steps ({told}):")
    print("a whole checkpoint was found each time, and every run ended with the unbroken run's bits")


if __name__ == "__main__":
    main()
