"""Rollouts of a real model in worker processes: bytes do not depend on how many there are or on kills."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.config import Config, CouplingConfig, DataConfig, TrainConfig
from imdm_dist.coupling import Coupling
from imdm_dist.model.dit import DitConfig
from imdm_dist.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
COUPLING = CouplingConfig(pairs=480, shards=12, steps=64, batch=20)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
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


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}


def test_three_workers_make_the_same_bytes(home: tuple[Path, Config]) -> None:
    folder, config = home
    generate_coupling(config, folder / "teacher", folder / "three", workers=3)
    assert shards(folder / "three") == shards(folder / "one")
    assert (folder / "three" / "manifest.json").read_text() == (folder / "one" / "manifest.json").read_text()


def test_the_command_killed_three_times_makes_the_same_bytes(home: tuple[Path, Config]) -> None:
    folder, config = home
    command = [sys.executable, str(ROOT / "tools" / "gen_coupling.py"), "--teacher", str(folder / "teacher")]
    command += ["--pairs", "480", "--shards", "12", "--steps", "64", "--workers", "1", "--out", str(folder / "killed")]
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


def test_a_source_of_ones_own_makes_a_coupling(home: tuple[Path, Config]) -> None:
    folder, config = home
    small = replace(COUPLING, pairs=24, shards=4, steps=8)
    own = replace(config, coupling=replace(small, source="tests.coupling.antithetic:AntitheticSource"))
    usual = replace(config, coupling=small)
    generate_coupling(usual, folder / "teacher", folder / "counter", workers=1)
    generate_coupling(own, folder / "teacher", folder / "own", workers=2)
    made = [Coupling.open(folder / name, verify_checksums=True) for name in ("counter", "own")]
    assert "source" not in made[0].plan  # as before there were any others
    assert made[1].plan == made[0].plan | {"source": own.coupling.source}
    assert (made[0].start_PL == made[1].start_PL).all() and (made[0].result_PL != made[1].result_PL).any()
    before = shards(folder / "own")
    (folder / "own" / "shard-00002.parquet").unlink()
    generate_coupling(own, folder / "teacher", folder / "own", workers=1)
    assert shards(folder / "own") == before
    with pytest.raises(ValueError, match="source was 'tests.coupling.antithetic:AntitheticSource' and is 'counter'"):
        generate_coupling(usual, folder / "teacher", folder / "own", workers=1)
    with pytest.raises(ValueError, match="source was 'counter' and is 'tests.coupling.antithetic:AntitheticSource'"):
        generate_coupling(own, folder / "teacher", folder / "counter", workers=1)
    gone = replace(config, coupling=replace(small, source="tests.nowhere:Source"))
    with pytest.raises(ValueError, match="'tests.nowhere:Source', which cannot be imported .*: correct it, or put"):
        generate_coupling(gone, folder / "teacher", folder / "gone", workers=2)
    assert not (folder / "gone").exists()
