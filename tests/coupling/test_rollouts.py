"""Rollouts of a real model in worker processes: bytes do not depend on how many there are or on kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.config import Config, CouplingConfig, DataConfig, TrainConfig
from imdm_dist.model.dit import DitConfig
from imdm_dist.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
COUPLING = CouplingConfig(pairs=1200, shards=12, steps=64, batch=20)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("rollouts")
    text = home / "text.txt"
    text.write_text("".join(f"row {i} says {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(200)))
    config = Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=2, n_heads=2, dropout=0.0),
        data=DataConfig(
            source="files", train=(str(text),), valid=(str(text),), bpe_size=300, length=24, cache=str(home / "data")
        ),
        train=TrainConfig(steps=3, global_batch=8),
        coupling=COUPLING,
    )
    train(config, home / "teacher")
    generate_coupling(config, home / "teacher", home / "one", workers=1)
    return home, config


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}


def test_three_workers_make_the_same_bytes(home):
    folder, config = home
    generate_coupling(config, folder / "teacher", folder / "three", workers=3)
    assert shards(folder / "three") == shards(folder / "one")
    assert (folder / "three" / "manifest.json").read_text() == (folder / "one" / "manifest.json").read_text()


def test_the_command_killed_three_times_makes_the_same_bytes(home):
    folder, config = home
    command = [sys.executable, str(ROOT / "tools" / "gen_coupling.py"), "--teacher", str(folder / "teacher")]
    command += ["--pairs", "1200", "--shards", "12", "--steps", "64", "--workers", "1", "--out", str(folder / "killed")]
    command += ["coupling.batch=20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for kill in range(3):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        have = len(shards(folder / "killed"))
        deadline = time.monotonic() + 60
        while len(shards(folder / "killed")) < have + 1 + kill and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(shards(folder / "killed")) > 0
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert shards(folder / "killed") == shards(folder / "one")
    left = sorted(path.name for path in (folder / "killed").iterdir())
    assert left == ["coupling.json", "manifest.json", *shards(folder / "one")]
