"""What cannot work is refused with cause and remedy: at submission, or by a job in its first seconds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from imdm_dist.chain import load_chain, run_chain
from imdm_dist.chain.chain import Chain
from imdm_dist.chain.cluster import submit_chain
from imdm_dist.chain.stages.train import check_run
from imdm_dist.config import InputsConfig, to_yaml
from imdm_dist.launch.submission import submit_run
from tests.cluster import tiny
from tests.cluster.jobs import Cluster

SECONDS = 60
"""In which a job refuses: it imports torch, on a machine that may be busy."""
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Before a command: root, but without the right to read what its owner has closed."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that is whole in `runs`, and one in given.yaml whose teacher is that one's."""
    home = tmp_path_factory.mktemp("refused")
    path = tiny.chain(home, train={"steps": 2, "save_every": 2}, coupling={"steps": 8})
    content = yaml.safe_load(path.read_text())
    content["stages"] = content["stages"][:4]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    folders = run_chain(load_chain(path), home / "runs", workers=1)
    content["name"] = "given"
    content["stages"][0] = {"name": "teacher", "kind": "given", "set": {"inputs": {"init": str(folders["teacher"])}}}
    (home / "given.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return home


@pytest.fixture
def refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[Chain, Path], str]:
    """Submits a chain, which must be refused in a line; returns that."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)

    def attempt(chain: Chain, root: Path) -> str:
        with pytest.raises(ValueError) as caught:
            submit_chain(chain, root)
        cluster.until(lambda: not cluster.run(["squeue", "--noheader"]).stdout, "nothing is in the queue", 20)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return attempt


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "partition=nowhere",
            "stage redi: there is no partition nowhere: set resources.partition to one of main, urgent",
        ),
        ("nodes=8", "stage redi: partition main has 4 machines, resources.nodes=8: set it to 4 or fewer"),
        (
            "gpus_per_node=9",
            "stage redi: SLURM refused the job: .*; set .*resources.gpus_per_node=9.* to what the machines .* have",
        ),
        (
            "memory=2T",
            "stage redi: SLURM refused the job: .*; set .*resources.memory=2T.* to what the machines .* have",
        ),
        ("sbatch=[--nonsense]", "stage redi: SLURM refused the job: .*nonsense"),
    ],
)
def test_machines_that_are_not_there(
    refused: Callable[[Chain, Path], str], home: Path, tmp_path: Path, override: str, message: str
) -> None:
    # Jobs of the stages before it have been submitted by then, and must not stay.
    overrides = ["redi/resources.tasks_per_node=1", f"redi/resources.{override}"]
    said = refused(load_chain(home / f"{tiny.NAME}.yaml", overrides), tmp_path)
    assert re.search(message, said), said


def test_a_given_teacher_that_is_damaged(refused: Callable[[Chain, Path], str], home: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny.folder_of(home / "runs", "teacher"), teacher)
    (weights,) = teacher.glob("step-00000002/weights*")
    weights.write_bytes(weights.read_bytes()[:-1])
    said = refused(load_chain(home / "given.yaml", [f"teacher/inputs.init={teacher}"]), tmp_path / "runs")
    assert re.search("stage teacher: .*/teacher holds no whole checkpoint: .*weights.* is missing or damaged", said), (
        said
    )


def test_what_submitit_is_asked_for(
    cluster: Cluster, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    config = load_chain(home / f"{tiny.NAME}.yaml").stage("teacher").config
    for change, message in (
        ({"partition": "nowhere"}, "there is no partition nowhere"),
        ({"nodes": 5}, "partition main has 4 machines"),
        ({"gpus_per_node": 9}, "SLURM refused the job: .*not available.*; set .*resources.gpus_per_node=9"),
    ):
        asked = replace(config, resources=replace(config.resources, **change))
        with pytest.raises(ValueError, match=message):
            submit_run(asked, tmp_path / "run", local=False)
    assert not cluster.run(["squeue", "--noheader"]).stdout


def test_pairs_that_are_damaged_or_may_not_be_read(cluster: Cluster, home: Path, tmp_path: Path) -> None:
    config = load_chain(home / f"{tiny.NAME}.yaml").stage("redi").config
    pairs = tmp_path / "pairs"
    shutil.copytree(tiny.folder_of(home / "runs", "pairs"), pairs)
    config = replace(config, inputs=InputsConfig(coupling=str(pairs)))
    check_run(config)
    (tmp_path / "redi.yaml").write_text(to_yaml(config))
    pairs.chmod(0)
    command: list[str | Path] = [*UNPRIVILEGED, sys.executable, tiny.ROOT / "tools" / "submit.py", tmp_path / "run"]
    done = cluster.run([*command, "--config", tmp_path / "redi.yaml"], check=False, timeout=120)
    assert done.returncode == 2
    assert re.fullmatch(f"error: no permission for {pairs}/.*: change its rights .*\n", done.stderr), done.stderr
    pairs.chmod(0o755)
    shard = pairs / "shard-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="shard-00003.parquet is damaged .*: delete it and run gen_coupling"):
        check_run(config)
    assert not cluster.run(["squeue", "--noheader"]).stdout


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without room for a checkpoint."""
    yield from mounted(tmp_path / "full", "size=64k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "read_only", "ro")


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_no_room_and_no_right_to_write(
    refused: Callable[[Chain, Path], str], home: Path, full: Path, read_only: Path
) -> None:
    chain = load_chain(home / f"{tiny.NAME}.yaml")
    assert re.search("the runs will take .* GB, .*/full has .* GB left: make room, ", refused(chain, full))
    assert "(Read-only file system): name another folder with --root" in refused(chain, read_only / "runs")


def test_a_job_refuses_in_its_first_seconds(
    cluster: Cluster, home: Path, tmp_path: Path, full: Path, read_only: Path
) -> None:
    unprivileged = tmp_path / "python"
    unprivileged.write_text(f'#!/bin/sh\nexec {" ".join(UNPRIVILEGED)} {sys.executable} "$@"\n')
    unprivileged.chmod(0o755)
    shutil.copytree(home / "runs", tmp_path / "closed")
    tiny.folder_of(tmp_path / "closed", "pairs").chmod(0)
    given, whole, root = home / "given.yaml", home / f"{tiny.NAME}.yaml", tmp_path / "runs"
    attempts: dict[str, tuple[Path, Path, str]] = {
        "stage teacher: there is no run or checkpoint at nowhere: set teacher/inputs.init=PATH": (
            given, root, "teacher/inputs.init=nowhere"),
        "stage sdtt: the given model has model.hidden_dim=32, here it is 64: set": (given, root, "model.hidden_dim=64"),
        "the runs will take .* GB, .*/full has .* GB left: make room": (whole, full, ""),
        "cannot write in .*/read_only/runs .Read-only file system.: name another": (whole, read_only / "runs", ""),
        "no permission for .*/closed/tiny/pairs-.*: change its rights": (whole, tmp_path / "closed", ""),
    }  # fmt: skip
    before = set(tmp_path.rglob("*"))
    jobs = {}
    for message, (chain, where, override) in attempts.items():
        options: list[str | Path] = [
            *tiny.sbatch_options(tiny.RANKS),
            f"--output={tmp_path}/%j.log",
            tiny.ROOT / "slurm" / "stage.sh",
        ]
        arguments: list[str | Path] = [chain, "redi", "--root", where, *filter(None, [override])]
        python = {"IMDM_PYTHON": str(unprivileged)} if where.name == "closed" else {}
        jobs[cluster.sbatch([*options, *arguments], env=tiny.JOB | python, cwd=tmp_path)] = message
    for job, message in jobs.items():
        cluster.wait(job, "FAILED", timeout=180)
        record = cluster.record(job)
        assert record["ExitCode"] == "2:0"
        started, ended = (datetime.fromisoformat(record[name]) for name in ("StartTime", "EndTime"))
        assert (ended - started).total_seconds() < SECONDS
        assert re.search(f"(?m)^error: .*{message}.*\n\\Z", cluster.output(job)), cluster.output(job)
        # No process of a stage was started.
        steps = cluster.run(["sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=JobID"]).stdout.split()
        assert set(steps) <= {job, f"{job}.batch"}
    made = set(tmp_path.rglob("*")) - before - {root}
    assert {path.suffix for path in made if path.is_file()} <= {".log", ".yaml"}, made
