"""Whatever happens to a job in the middle of its work, it ends with the result of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import tiny
from tests.cluster.jobs import Cluster

LONG = {"train": {"steps": 320, "save_every": 20, "log_every": 2}}
SLOW = {"coupling": {"pairs": 256, "shards": 16, "steps": 256, "batch": 2}}
MIDDLE = 40
"""Steps after which training is disturbed."""


def warned(cluster: Cluster, job: str) -> None:
    """What SLURM sends before the time limit."""
    cluster.signal(job, "USR1", to="batch")


def signalled(cluster: Cluster, job: str) -> None:
    cluster.signal(job, "USR1", to="steps")


def requeued(cluster: Cluster, job: str) -> None:
    cluster.requeue(job)


def preempted(cluster: Cluster, job: str) -> None:
    cluster.preempt(25)


def node_down(cluster: Cluster, job: str) -> None:
    cluster.down_node("node2")
    cluster.wait_restart(job, timeout=90)
    cluster.resume("node2")


def node_killed(cluster: Cluster, job: str) -> None:
    cluster.kill_node("node2")
    cluster.wait_node("node2", "down", timeout=90)
    cluster.revive("node2")


HOW = [
    pytest.param(how, marks=marks)
    for how, marks in (
        (warned, ()),
        (signalled, pytest.mark.thorough),
        (requeued, pytest.mark.thorough),
        (preempted, pytest.mark.thorough),
        (node_down, pytest.mark.thorough),
        (node_killed, pytest.mark.thorough),
    )
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disturbed")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, home: Path) -> dict[str, str]:
    """What a training job leaves that nothing happens to."""
    chain = tiny.chain(home, **LONG)
    root = home / "undisturbed"
    cluster.wait(tiny.submit_stage(cluster, chain, "teacher", root), "COMPLETED", timeout=180)
    return tiny.trained(tiny.folder_of(root, "teacher"))


@pytest.mark.parametrize("how", HOW)
def test_training(
    cluster: Cluster, home: Path, undisturbed: dict[str, str], how: Callable[[Cluster, str], None]
) -> None:
    root = home / how.__name__
    job = tiny.submit_stage(cluster, home / f"{tiny.NAME}.yaml", "teacher", root)
    cluster.until(lambda: tiny.steps_done(root, "teacher") >= MIDDLE, "training is under way", 120, job)
    how(cluster, job)
    cluster.wait(job, "COMPLETED", timeout=300)
    assert cluster.restarts(job) >= 1
    folder = tiny.folder_of(root, "teacher")
    assert tiny.trained(folder) == undisturbed
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == steps and set(range(2, 321, 2)) <= set(steps)  # and the step of a stop, if it is odd


def test_training_of_which_a_rank_dies(cluster: Cluster, home: Path, undisturbed: dict[str, str]) -> None:
    root = home / "killed"
    job = tiny.submit_stage(cluster, home / f"{tiny.NAME}.yaml", "teacher", root)
    cluster.until(lambda: tiny.steps_done(root, "teacher") >= MIDDLE, "training is under way", 120, job)
    os.kill(json.loads((tiny.folder_of(root, "teacher") / "heartbeat.json").read_text())["pid"], signal.SIGKILL)
    cluster.wait(job, "COMPLETED", timeout=300)
    assert cluster.restarts(job) == 1
    assert "restart 1 of 3 in a row without progress" in cluster.output(job)
    assert tiny.trained(tiny.folder_of(root, "teacher")) == undisturbed


@pytest.fixture(scope="module")
def coupled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A chain whose teacher is there, and its pairs as one process makes them."""
    home = tmp_path_factory.mktemp("coupled")
    chain = tiny.chain(home, **SLOW)
    command = [sys.executable, str(tiny.ROOT / "tools" / "pipeline.py"), "here", str(chain), "--stage", "pairs"]
    command += ["--local", "--root", str(home / "one")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return home, tiny.shards(tiny.folder_of(home / "one", "pairs"))


def give_teacher(home: Path, root: Path) -> None:
    """Put what the pairs are made from into the folder of another run of the same chain."""
    for stage in ("teacher", "sdtt"):
        source = tiny.folder_of(home / "one", stage)
        (root / tiny.NAME).mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", source, root / tiny.NAME / source.name], check=True)


@pytest.mark.parametrize("how", HOW)
def test_coupling(
    cluster: Cluster, coupled: tuple[Path, dict[str, bytes]], how: Callable[[Cluster, str], None]
) -> None:
    home, expected = coupled
    root = home / how.__name__
    give_teacher(home, root)
    job = tiny.submit_stage(cluster, home / f"{tiny.NAME}.yaml", "pairs", root)
    cluster.until(lambda: tiny.shards_there(root) >= 2, "shards are being made", 120, job)
    how(cluster, job)
    cluster.wait(job, "COMPLETED", timeout=400)
    assert cluster.restarts(job) >= 1
    folder = tiny.folder_of(root, "pairs")
    assert tiny.shards(folder) == expected
    left = {path.name for path in folder.iterdir()} - set(expected)
    assert left == {"coupling.json", "manifest.json", "stage.json"}


def limited_and_free(cluster: Cluster, chain: Path, stage: str, home: Path) -> tuple[Path, Path]:
    """Make a stage in a job that reaches its time limit, a minute, and at the same time in one that has none.

    Returns:
        the folders of both.
    """
    job = tiny.submit_stage(cluster, chain, stage, home / "limited")
    cluster.run(["scontrol", "update", f"jobid={job}", "timelimit=1"])
    free = tiny.submit_stage(cluster, chain, stage, home / "free")
    cluster.wait_restart(job, timeout=240)
    cluster.run(["scontrol", "update", f"jobid={job}", "timelimit=10"])
    for other in (job, free):
        cluster.wait(other, "COMPLETED", timeout=400)
    assert (cluster.restarts(job), cluster.restarts(free)) == (1, 0)
    return tiny.folder_of(home / "limited", stage), tiny.folder_of(home / "free", stage)


@pytest.mark.thorough
def test_training_at_a_real_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    chain = tiny.chain(tmp_path, train={"steps": 900, "save_every": 100, "log_every": 10})
    limited, free = limited_and_free(cluster, chain, "teacher", tmp_path)
    assert tiny.trained(limited) == tiny.trained(free)
    steps = [json.loads(line)["step"] for line in (limited / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == steps and steps[-1] == 900


@pytest.mark.thorough
def test_coupling_at_a_real_time_limit(
    cluster: Cluster, coupled: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    chain = tiny.chain(tmp_path, coupling={"pairs": 16384, "shards": 64, "steps": 256, "batch": 2})
    for root in ("limited", "free"):
        give_teacher(coupled[0], tmp_path / root)
    limited, free = limited_and_free(cluster, chain, "pairs", tmp_path)
    assert tiny.shards(limited) == tiny.shards(free)
    assert len(tiny.shards(free)) == 64
