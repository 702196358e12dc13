"""A run submitted through Submitit: preempted it saves, goes back to the queue and ends as if nothing had happened."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from imdm_dist.chain import load_chain
from imdm_dist.config import to_yaml
from imdm_dist.training.metrics import read_metrics
from tests.cluster import tiny
from tests.cluster.jobs import Cluster

STEPS = 400
TOOL = tiny.ROOT / "tools" / "submit.py"
RESOURCES = ["--nodes=2", "--tasks-per-node=1", "--gpus-per-node=1", "--time=60"]
"""Two processes."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("submitit")
    chain = load_chain(tiny.chain(home, train={"steps": STEPS, "save_every": 20, "log_every": 2}))
    (home / "run.yaml").write_text(to_yaml(chain.stage("teacher").config))
    return home / "run.yaml"


def submit(cluster: Cluster, folder: Path, config: Path, options: Sequence[str], timeout: float = 120) -> str:
    """Run tools/submit.py; returns what it says."""
    command: list[str | Path] = [sys.executable, TOOL, folder, "--config", config, *options]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    done = cluster.run(command, env=environment, cwd=folder.parent, timeout=timeout)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def local(cluster: Cluster, config: Path) -> Path:
    """The run by the local executor, with as many processes."""
    folder = config.parent / "local"
    options = ["--local", "--wait", "resources.nodes=1", "resources.gpus_per_node=0", "resources.tasks_per_node=2"]
    assert str(folder) in submit(cluster, folder, config, options, 240)
    return folder


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_metrics(folder)] if (folder / "metrics.jsonl").exists() else []


def test_the_local_executor_runs_the_same_configuration(local: Path) -> None:
    assert steps(local) == list(range(2, STEPS + 1, 2))
    assert len(tiny.trained(local)) == 2 * 4  # each process wrote its part


def test_preempted_twice(cluster: Cluster, config: Path, local: Path) -> None:
    folder = config.parent / "preempted"
    said = submit(cluster, folder, config, RESOURCES)
    job = said.split("job ")[1].split(";")[0]
    cluster.until(lambda: len(steps(folder)) >= 5, "training is under way", 120, job)
    # The signal alone, as by a site that has other means, then a job with more right to the nodes.
    cluster.signal(job, "USR1", to="batch")
    cluster.wait_restart(job, 1, 120)
    done = len(steps(folder))
    assert done < STEPS // 2
    cluster.until(lambda: len(steps(folder)) >= done + 5, "training has gone on", 120, job)
    cluster.preempt(2)
    cluster.wait_restart(job, 2, 120)
    assert len(steps(folder)) < STEPS // 2
    cluster.wait(job, "COMPLETED", timeout=240)
    assert cluster.restarts(job) == 2
    assert tiny.trained(folder) == tiny.trained(local)
    assert steps(folder) == list(dict.fromkeys(steps(folder)))
    assert set(range(2, STEPS + 1, 2)) <= set(steps(folder))


def test_a_dry_run_prints_the_script(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    script = submit(cluster, tmp_path / "run", config, [*RESOURCES, "--dry-run", "resources.sbatch=[--constraint=x]"])
    for line in (
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=1",
        "--signal=B:USR1@20",
        "--time=60",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --constraint=x\n" in script
    assert "submitit.core._submit" in script
    assert not list(tmp_path.glob("run/*"))
    assert not cluster.run(["squeue", "--noheader"]).stdout
