"""`sbatch slurm/owt_860m_redi.sh` as it stands, at a small size: it ends with what one process makes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from imdm_dist.chain.chain import load_chain, needed
from imdm_dist.chain.runner import execute, make_stages
from imdm_dist.checkpoint.read import find_checkpoint
from tests.cluster import tiny
from tests.cluster.jobs import Cluster

NAME = "owt_860m"
CHAIN = tiny.ROOT / "configs" / "pipeline" / f"{NAME}.yaml"
PARITY = 5e-6
"""Largest difference of a weight after a few steps that are divided otherwise."""
SIZE = (
    "data.source=files data.name= data.tokenizer=embedded data.bpe_size=300 data.length=12 model.size=custom "
    "model.hidden_dim=32 model.n_blocks=1 model.n_heads=2 model.dropout=0.0 model.mask.noise_dim=8 "
    "engine.precision=fp32 engine.micro_batch=0 engine.compile=false optimizer.warmup_steps=2 "
    "train.global_batch=16 train.save_every=5 train.log_every=5 train.wandb=off coupling.pairs=32 coupling.shards=8 "
    "coupling.steps=8 coupling.batch=4 sdtt/objective.rounds=2 sdtt/objective.steps_per_round=5 sdtt/objective.grid=8 "
    "redi/train.steps=10"
)
"""Settings that bring the script down to a size for two cores."""


@dataclass(frozen=True)
class Given:
    """A home with a text and a teacher."""

    home: Path
    overrides: list[str]

    def one_process(self, stage: str, root: Path) -> Path:
        """Make a stage in this process; returns its folder."""
        chain = load_chain(CHAIN, self.overrides)
        folders = make_stages(chain, needed(chain, stage), root, lambda one, folders: execute(chain, one, folders, 1))
        return folders[stage]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    home = tmp_path_factory.mktemp("script")
    tiny.chain(home, train={"steps": 30})
    made = load_chain(home / f"{tiny.NAME}.yaml")
    teacher = make_stages(made, needed(made, "teacher"), home, lambda one, folders: execute(made, one, folders))
    text = f"[{home / 'text.txt'}]"
    places = [f"data.train={text}", f"data.valid={text}", f"data.cache={home / 'data'}"]
    return Given(home, [*SIZE.split(), *places, f"teacher/inputs.init={teacher['teacher']}"])


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(["--ntasks-per-node=2"], id="2x2"),  # two nodes, as the script says
        pytest.param(["--nodes=4", "--ntasks-per-node=1"], id="4x1", marks=pytest.mark.thorough),
    ],
)
def test_the_860m_script(cluster: Cluster, given: Given, tmp_path: Path, shape: list[str]) -> None:
    environment = {
        "IMDM_OVERRIDES": " ".join(given.overrides),
        "IMDM_PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }
    root = tmp_path / "runs"
    script: list[str | Path] = [f"--output={tmp_path}/%x-%j.log", "slurm/owt_860m_redi.sh", "--root", root]
    job = cluster.sbatch([*shape, *script], env=environment, cwd=tiny.ROOT)
    cluster.wait(job, "COMPLETED", timeout=240)
    said = cluster.output(job)
    assert "4 processes on node" in said
    folders = {stage: folder_of(root / NAME, stage) for stage in ("sdtt", "pairs", "redi")}
    for stage, folder in folders.items():
        assert f"{stage}: {folder}" in said

    alone = given.one_process("sdtt", tmp_path / "alone")
    assert distance(folders["sdtt"], alone) <= PARITY
    # From the same student, for one that differs in the last bits may choose another token.
    beside = tmp_path / "beside" / NAME
    beside.mkdir(parents=True)
    (beside / folders["sdtt"].name).symlink_to(folders["sdtt"])
    redi = given.one_process("redi", tmp_path / "beside")
    assert tiny.shards(folder_of(beside, "pairs")) == tiny.shards(folders["pairs"])
    assert distance(folders["redi"], redi) <= PARITY
    assert distance(folders["redi"], folders["sdtt"]) > 100 * PARITY


def folder_of(home: Path, stage: str) -> Path:
    (found,) = home.glob(f"{stage}-*")
    return found


def distance(one: Path, other: Path) -> float:
    """Largest difference of a weight or an average between the last checkpoints of two runs."""
    first, second = find_checkpoint(one), find_checkpoint(other)
    assert first.step == second.step
    largest = 0.0
    for quantity in ("weights", "ema"):
        assert first.names(quantity) and sorted(first.names(quantity)) == sorted(second.names(quantity))
        for name in first.names(quantity):
            apart = torch.dist(first.full(quantity, name), second.full(quantity, name), p=float("inf"))
            largest = max(largest, float(apart))
    return largest
