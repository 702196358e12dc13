"""The whole pipeline by one command; disturbed, damaged or changed, giving it again makes what is missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imdm_dist.chain import load_chain
from imdm_dist.chain.chain import Chain
from imdm_dist.chain.cluster import cancel_chain, submit_chain
from imdm_dist.chain.provenance import provenance
from imdm_dist.chain.slurm_jobs import live_jobs, read_jobs
from imdm_dist.chain.status import status, status_text
from imdm_dist.launch import slurm
from tests.cluster import tiny
from tests.cluster.jobs import Cluster

TOOL = tiny.ROOT / "tools" / "pipeline.py"
STAGES = ("teacher", "sdtt", "pairs", "redi", "judge", "table")
MINUTES = 8
"""In which everything is made, on a machine that may be busy."""


@pytest.fixture(scope="module", autouse=True)
def at_home(cluster: Cluster) -> Iterator[None]:
    """SLURM's commands in this process find the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (cluster.environment() | tiny.JOB).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    long = {"steps": 60, "save_every": 20, "log_every": 2}
    slow = {"pairs": 4096, "shards": 8, "steps": 128, "batch": 2}  # a shard takes seconds
    two = {"nodes": 2, "tasks_per_node": 1, "gpus_per_node": 1}
    return tiny.chain(tmp_path_factory.mktemp("pipeline"), train=long, coupling=slow, resources=two)


@pytest.fixture(scope="module")
def chain(path: Path) -> Chain:
    return load_chain(path)


def start(path: Path, root: Path) -> subprocess.Popen[str]:
    """The one command."""
    command = [sys.executable, str(TOOL), "run", str(path), "--root", str(root)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


Seen = dict[str, list[tuple[str, str]]]
"""State and progress of each stage, one after the other."""


def wait_for_all(chain: Chain, root: Path) -> Seen:
    """Look at the table again and again until every stage is whole and every job has ended; returns what it said."""
    seen: Seen = {stage: [] for stage in STAGES}
    deadline = time.monotonic() + 60 * MINUTES
    while True:
        rows = status(chain, root)
        for row in rows:
            if (row.state, row.progress) not in seen[row.stage][-1:]:
                seen[row.stage].append((row.state, row.progress))
        if all(row.state == "whole" for row in rows) and not live_jobs(root / tiny.NAME, slurm.queue()):
            return seen
        failed = any(row.state in ("failed", "cancelled") for row in rows)
        assert not failed and time.monotonic() < deadline, f"{status_text(rows)}\n{logs(root)}"
        time.sleep(0.3)


def logs(root: Path) -> str:
    """The ends of all logs."""
    files = sorted((root / tiny.NAME / "logs").glob("*.log"))
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in files)


def stamps(root: Path, *stages: str) -> dict[Path, int]:
    """When the files of stages, or of all, were last changed."""
    folders = [tiny.folder_of(root, stage) for stage in stages or STAGES]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(path: Path, chain: Chain) -> tuple[Path, Seen]:
    """The folder of all runs, made by one command, and what the table said meanwhile."""
    root = path.parent / "runs"
    assert {row.state for row in status(chain, root)} == {"waiting"}  # not even the text is packed
    command = start(path, root)
    said = command.communicate(timeout=120)[1]
    assert command.returncode == 0, said
    assert re.search(r"table: job \d+ after [\d, ]+ \(waiting, ", said), said
    return root, wait_for_all(chain, root)


def test_by_one_command(chain: Chain, made: tuple[Path, Seen]) -> None:
    root, seen = made
    for stage, states in seen.items():
        assert {"queued", "running"} & {state for state, _ in states}, stage
        assert states[-1][0] == "whole", states
    assert ("queued", "") in seen["redi"]
    assert seen["pairs"][-1] == ("whole", "8 of 8 shards, 4,096 of 4,096 pairs; finished")
    assert any(re.match("[1-7] of 8 shards", progress) for state, progress in seen["pairs"] if state == "running")
    assert seen["sdtt"][-1][1].startswith("step 12 of 12, loss ")
    # Four jobs shared the shards, and each of the others was one.
    names = [log.name for log in (root / tiny.NAME / "logs").iterdir()]
    assert {name.rpartition("-")[0] for name in names} == {"prepare_data", *STAGES}
    assert sorted(name[-6:] for name in names if "_" in name.rpartition("-")[2]) == [f"_{n}.log" for n in range(4)]
    records = json.loads((tiny.folder_of(root, "table") / "result.json").read_text())["records"]
    assert [record["model"] for record in records] == ["A", "B"]


def test_given_again_it_does_nothing(chain: Chain, made: tuple[Path, Seen], capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = made
    before = stamps(root)
    assert submit_chain(chain, root) == {}
    assert capsys.readouterr().err.count("there already") == len(STAGES)
    assert not live_jobs(root / tiny.NAME, slurm.queue())
    assert stamps(root) == before


def test_a_changed_setting_is_redone_and_says_why(
    path: Path, made: tuple[Path, Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = made
    before = stamps(root)
    changed = load_chain(path, ["redi/optimizer.lr=2e-3"])
    jobs = submit_chain(changed, root)
    said = capsys.readouterr().err
    assert set(jobs) == {"redi", "table"}
    assert f"redi: job {jobs['redi'].id} (missing, made anew: optimizer.lr was 0.001, is 0.002)" in said
    assert f"table: job {jobs['table'].id} after {jobs['redi'].id} (waiting, needs redi)" in said
    assert submit_chain(changed, root) == jobs
    with pytest.raises(ValueError, match=f"job {jobs['redi'].id} makes stage redi with other settings: cancel it"):
        submit_chain(load_chain(path, ["redi/optimizer.lr=3e-3"]), root)
    rows = {row.stage: row for row in status(changed, root)}
    assert rows["redi"].job == str(jobs["redi"].id) and rows["table"].state == "queued"
    assert cancel_chain(root / tiny.NAME) == sorted(job.id for job in jobs.values())
    assert before.items() <= {p: p.stat().st_mtime_ns for p in (root / tiny.NAME).rglob("*")}.items()


def test_provenance_goes_back_to_the_text_and_the_seeds(made: tuple[Path, Seen]) -> None:
    text = provenance(tiny.folder_of(made[0], "table"))
    for expected in (
        "text.txt",
        "train.seed: 0",
        '"seed": 1',
        '"seeds": [1, 2]',
        "from sdtt:",
        "from pairs:",
        "torch ",
    ):
        assert expected in text
    assert len(re.findall(r"^ *teacher-\w+: train, digest ", text, re.MULTILINE)) >= 1


@pytest.mark.thorough
def test_killed_at_five_points(
    cluster: Cluster, path: Path, chain: Chain, made: tuple[Path, Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    root = path.parent / "killed"

    def live() -> dict[str, str]:
        """Ids of the jobs in the queue, by stage; there is one a stage."""
        names = [job.name.split(".")[1] for job in slurm.queue() if job.state not in slurm.OVER and job.element == ""]
        assert len(names) == len(set(names)), names
        return {stage: str(job.id) for stage, job in live_jobs(root / tiny.NAME, slurm.queue()).items()}

    # 1. The command itself, while it submits.
    command = start(path, root)
    assert command.stderr is not None
    for line in command.stderr:
        if line.startswith("teacher: job"):
            break
    os.kill(command.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    first = live()
    assert "teacher" in first and len(first) < len(STAGES)
    submit_chain(chain, root)
    assert f"teacher: job {first['teacher']} is in the queue already" in capsys.readouterr().err
    assert set(live()) == set(STAGES) and live()["teacher"] == first["teacher"]

    # 2. All jobs, in the middle of the teacher.
    cluster.until(lambda: tiny.steps_done(root, "teacher") >= 6, "the teacher is trained", 120)
    cancel_chain(root / tiny.NAME)
    submit_chain(chain, root)
    assert "teacher: job" in (said := capsys.readouterr().err) and "(half done, was cut off)" in said
    assert live()["teacher"] != first["teacher"]

    # 3. A job that others wait for: they would never run.
    second = live()
    cluster.cancel(second["sdtt"])
    submit_chain(chain, root)
    third = live()
    assert third["teacher"] == second["teacher"]
    for stage in ("sdtt", "pairs", "redi", "table"):
        assert third[stage] != second[stage]

    # 4. An element of the array.
    cluster.until(lambda: 1 <= tiny.shards_there(root) < 8, "pairs are made", 60 * MINUTES)
    kept = stamps(root, "teacher", "sdtt")
    shards = {p: p.stat().st_mtime_ns for p in tiny.folder_of(root, "pairs").glob("shard-*.parquet")}
    running = [job.element for job in slurm.queue() if str(job.id) == third["pairs"] and job.state == "RUNNING"]
    cluster.cancel(f"{third['pairs']}_{running[-1]}")
    # The others make its shards, and what starts from the coupling goes on.
    wait_for_all(chain, root)
    assert "CANCELLED" in slurm.call(
        ["sacct", "--noheader", "--allocations", f"--jobs={third['pairs']}", "--format=state"]
    )
    assert read_jobs(root / tiny.NAME)["redi"].id == int(third["redi"])
    assert stamps(root, "teacher", "sdtt") == kept
    assert shards.items() <= stamps(root, "pairs").items()

    # 5. A result, after the end.
    before = stamps(root)
    shard = tiny.folder_of(root, "pairs") / "shard-00005.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    capsys.readouterr()
    assert set(submit_chain(chain, root)) == {"pairs", "redi", "table"}
    assert "pairs: job" in (said := capsys.readouterr().err) and "(damaged, its result in pairs-" in said
    cluster.until(lambda: not live(), "it is made again", 60 * MINUTES)
    assert shard.read_bytes() == content
    changed = {path.name for path, stamp in stamps(root).items() if before.get(path) != stamp}
    assert changed <= {"shard-00005.parquet", "manifest.json", "stage.json"}, changed

    # The same as undisturbed.
    for stage in ("teacher", "sdtt", "redi"):
        assert tiny.trained(tiny.folder_of(root, stage)) == tiny.trained(tiny.folder_of(made[0], stage))
    assert tiny.shards(tiny.folder_of(root, "pairs")) == tiny.shards(tiny.folder_of(made[0], "pairs"))
    tables = [json.loads((tiny.folder_of(one, "table") / "result.json").read_text()) for one in (root, made[0])]
    assert [r["figures"] for r in tables[0]["records"]] == [r["figures"] for r in tables[1]["records"]]
