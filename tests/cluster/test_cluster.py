"""The test cluster itself behaves as one: the ground that the other tests here stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import daemons, host
from tests.cluster.jobs import Cluster
from tests.cluster.layout import Layout, load_layout, save_layout

ROOT = Path(__file__).parents[2]
TWO_NODES = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=8", "--cpus-per-task=8", "--mem=500G"]
LONG = "--wrap=echo run ${SLURM_RESTART_COUNT:-0}; srun sleep 100"


def test_two_nodes_two_tasks_see_their_names_ranks_and_gpus(cluster: Cluster, tmp_path: Path) -> None:
    what = "$(hostname) $SLURMD_NODENAME $SLURM_PROCID $SLURM_LOCALID $CUDA_VISIBLE_DEVICES $MINE"
    script = f"scontrol show hostnames $SLURM_JOB_NODELIST; srun bash -c 'echo {what}'"
    job = cluster.sbatch([*TWO_NODES, f"--wrap={script}"], env={"MINE": "kept"}, cwd=tmp_path)
    cluster.wait(job, "COMPLETED", 30)
    first, second, *tasks = cluster.output(job).splitlines()
    assert {first, second} <= set(cluster.nodes)
    gpus = "0,1,2,3,4,5,6,7"
    assert sorted(tasks, key=lambda line: line.split()[2]) == [
        f"{name} {name} {rank} {rank % 2} {gpus} kept" for rank, name in enumerate([first, first, second, second])
    ]
    assert cluster.output(job) == (tmp_path / f"slurm-{job}.out").read_text()


def test_accounting_knows_how_a_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(["--wrap=exit 3"], cwd=tmp_path)
    cluster.wait(job, "FAILED", 30)
    listed = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=state,exitcode", f"--jobs={job}"]
    cluster.until(lambda: cluster.run(listed).stdout.strip() == "FAILED|3:0", "sacct says FAILED", 20)


def test_what_no_node_has_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    for wrong in ("--gpus-per-node=9", "--partition=nowhere", "--mem=2T"):
        answer = cluster.run(["sbatch", wrong, "--wrap=true"], cwd=tmp_path, check=False)
        assert answer.returncode != 0, wrong
        assert "error" in answer.stderr
    job = cluster.sbatch(["--nodes=5", "--wrap=true"], cwd=tmp_path)  # accepted, as at sites with SLURM's defaults
    cluster.until(lambda: cluster.record(job)["Reason"].startswith("Partition"), "five nodes wait for ever", 20, job)


def test_requeue_runs_the_job_again(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch([*TWO_NODES, LONG], cwd=tmp_path)
    cluster.wait(job, "RUNNING", 20)
    cluster.wait_output(job, "run 0")
    cluster.requeue(job)
    cluster.wait_restart(job, 1, 40)
    cluster.wait_output(job, "run 1", timeout=20)
    assert cluster.restarts(job) == 1
    assert "run 0" in cluster.output(job)


def test_signals_reach_whom_they_are_for(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        "trap 'echo batch heard' USR1\n"
        "srun bash -c \"trap 'echo step heard' USR1; echo ready; while :; do sleep 0.1; done\" &\n"
        "while :; do wait; done\n"
    )
    job = cluster.sbatch([script], cwd=tmp_path)
    cluster.wait_output(job, "ready")
    cluster.signal(job, "USR1", "batch")
    cluster.wait_output(job, "batch heard", 1, 20)
    assert "step heard" not in cluster.output(job)
    cluster.signal(job, "USR1")
    cluster.wait_output(job, "step heard", 1, 20)
    assert cluster.output(job).count("batch heard") == 1
    cluster.signal(job, "USR1", "full")
    cluster.wait_output(job, "batch heard", 2, 20)
    cluster.wait_output(job, "step heard", 2, 20)


def test_preemption_warns_and_requeues(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --signal=B:USR1@60\n"
        "trap 'echo warned' USR1\necho run ${SLURM_RESTART_COUNT:-0}\nfor i in {1..600}; do sleep 0.1; done\n"
    )
    job = cluster.sbatch([script], cwd=tmp_path)
    cluster.wait_output(job, "run 0", timeout=20)
    urgent = cluster.preempt(1, grace=2)
    cluster.wait_output(job, "warned", timeout=20)
    assert cluster.state(urgent) == "PENDING"
    cluster.wait(urgent, "COMPLETED", 30)
    cluster.wait_restart(job, 1, 30)


def test_job_that_ends_when_warned_of_preemption_is_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(["--wrap=echo run; srun sleep 100"], cwd=tmp_path)
    cluster.wait_output(job, "run", timeout=20)
    urgent = cluster.preempt(1)
    cluster.wait(job, "FAILED", 30)
    cluster.wait(urgent, "COMPLETED", 30)
    assert cluster.restarts(job) == 0


def test_node_set_down_requeues_its_jobs(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(["--nodes=1", LONG], cwd=tmp_path)
    cluster.wait(job, "RUNNING", 20)
    name = cluster.record(job)["NodeList"]
    cluster.down_node(name)
    cluster.wait_restart(job, 1, 40)
    assert cluster.record(job)["NodeList"] != name
    cluster.resume(name)
    cluster.wait_node(name, "ready", 20)


def test_killed_node_takes_its_processes_along_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    marks = tmp_path / "pids"
    job = cluster.sbatch(
        ["--nodes=4", f"--wrap=srun bash -c 'echo $$ $(hostname) >>{marks}; exec sleep 100'"], cwd=tmp_path
    )
    cluster.until(lambda: marks.exists() and len(marks.read_text().splitlines()) == 4, "four tasks run", 20, job)
    pids = {line.split()[1]: int(line.split()[0]) for line in marks.read_text().splitlines()}
    cluster.kill_node("node3")
    assert not daemons.alive(pids["node3"])
    assert daemons.alive(pids["node2"])
    cluster.revive("node3")
    cluster.wait_restart(job, 1, 60)


def test_node_whose_namespace_was_lost_gets_a_new_one(cluster: Cluster) -> None:
    slurmd = daemons.running(cluster.layout, "node4", "slurmd")
    holder = daemons.running(cluster.layout, "node4.holder", "sleep")
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    cluster.until(lambda: not daemons.alive(holder), "the holder is gone", 5)
    host.up(cluster.layout)
    assert daemons.running(cluster.layout, "node4", "slurmd") not in (slurmd, None)
    assert cluster.run(["srun", "--nodelist=node4", "hostname"]).stdout == "node4\n"


def test_array_runs_every_element(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(
        ["--array=0-3%2", "--output=out-%a", '--wrap=test $SLURM_ARRAY_TASK_ID != 2 && echo "$(hostname)"'],
        cwd=tmp_path,
    )
    cluster.wait(job, {"COMPLETED", "FAILED"}, 40)
    states = {index: cluster.state(f"{job}_{index}") for index in range(4)}
    assert states == {0: "COMPLETED", 1: "COMPLETED", 2: "FAILED", 3: "COMPLETED"}
    assert (tmp_path / "out-3").read_text().strip() in cluster.nodes


def test_up_is_idempotent_in_an_empty_environment_and_in_use_means_wait(cluster: Cluster) -> None:
    before = host.HOSTS.read_text()
    pid = daemons.running(cluster.layout, "slurmctld", "slurmctld")
    host.up(cluster.layout)
    assert daemons.running(cluster.layout, "slurmctld", "slurmctld") == pid
    assert host.HOSTS.read_text() == before
    answer = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "up"],
        env={"IMDM_SLURM_DIR": str(cluster.layout.folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: other tests use the cluster")


def test_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="holds other files"):
        save_layout(Layout(tmp_path))
    host.down(tmp_path)
    assert (tmp_path / "mine").exists()
    save_layout(Layout(tmp_path / "new", nodes=2))
    assert load_layout(tmp_path / "new") == Layout(tmp_path / "new", nodes=2)


@pytest.mark.parametrize("before", ["127.0.0.1 localhost\n", "127.0.0.1 localhost", "\n# none\n\n", ""])
def test_hosts_file_is_restored_to_the_byte(before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts"
    file.write_text(before)
    monkeypatch.setattr(host, "HOSTS", file)
    host.write_hosts(Layout(tmp_path, nodes=2))
    host.write_hosts(Layout(tmp_path, nodes=3))
    assert [line for line in file.read_text().splitlines() if "node" in line] == [
        f"127.0.0.1 node1 node2 node3 {host.MARK}"
    ]
    host.write_hosts(None)
    assert file.read_text() == before
