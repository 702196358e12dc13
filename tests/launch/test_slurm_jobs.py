"""What jobs are asked for, who is seen at work, and what follows when a process dies: without a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.chain import load_chain
from imdm_dist.chain.activity import activity_in, check_idle, noted_jobs
from imdm_dist.chain.chain import Chain, needed
from imdm_dist.chain.cluster import cancel_chain, submit_chain
from imdm_dist.chain.runner import make_stages
from imdm_dist.chain.slurm_jobs import SubmittedJob, note_job
from imdm_dist.chain.status import status
from imdm_dist.chain.survey import survey
from imdm_dist.chain.work_order import write_order
from imdm_dist.config import ResourcesConfig
from imdm_dist.coupling.progress import coupling_progress
from imdm_dist.data import prepare
from imdm_dist.error_boundary import guarded
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.launch.__main__ import main
from imdm_dist.launch.requeue import count_crash, newest_result
from imdm_dist.launch.submission import script, submit_run, submitted_before
from imdm_dist.signals import SIGNALS
from imdm_dist.training.heartbeat import LoopStatus, write_heartbeat
from tests.cluster import tiny
from tests.fake_slurm import FakeSlurm, fake_slurm

__all__ = ["fake_slurm"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hosts(fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """This process is a job's batch script."""
    (fake_slurm.folder / "scontrol").write_text(
        f'#!/bin/sh\n[ "$1" = show ] && echo node1 && exit\necho "scontrol $*" >>{fake_slurm.folder}/asked\n'
    )
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1"}.items():
        monkeypatch.setenv(name, value)
    return fake_slurm


def launch(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str, *options: str) -> int:
    """Run a program by `python -m imdm_dist.launch` in this process; returns the exit code."""
    (folder / "program.py").write_text(program)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["launch", *options, "program.py"])
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(SystemExit) as end:
        guarded(main)
    for number, handler in before.items():
        signal.signal(number, handler)
    return int(end.value.code or 0)


# Time limits


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"time": "2"},
            "resources.time=2 is 2 minutes, and resources.warning_s=300 .* set resources.time to 7 or more",
        ),
        ({"time": "0:05:00"}, "resources.time=0:05:00 is 5 minutes, .*: it would do nothing else"),
        ({"time": "1:00:00", "warning_s": 3600}, "resources.time=1:00:00 is 60 minutes, .* to 62 or more"),
        ({"time": "24:00"}, "24:00 is minutes and seconds to sbatch: write 24:00:00 for hours .* or 24 for minutes"),
        ({"time": "1 hour"}, "resources.time: '1 hour' is no time limit: write minutes, or hours:minutes:seconds"),
        ({"warning_s": 70_000}, "resources.warning_s is 70000: sbatch takes 65535 seconds at most"),
        ({"restarts": -1}, "resources.restarts is -1: set it to 0 or more"),
        ({"sbatch": ("--time=2",)}, "resources.sbatch has '--time=2': set resources.time instead"),
        ({"sbatch": ("--signal=B:USR1@9",)}, "resources.sbatch has .*: set resources.warning_s instead"),
        ({"sbatch": ("--output=x",)}, "resources.sbatch has '--output=x', which jobs are given by themselves"),
        ({"sbatch": ("--mem-per-cpu=4G",)}, "resources.sbatch has '--mem-per-cpu=4G': set resources.memory instead"),
        ({"sbatch": ("--ntasks=5",)}, "resources.sbatch has '--ntasks=5': set resources.tasks_per_node instead"),
        ({"sbatch": ("--wrap=ls",)}, "resources.sbatch has '--wrap=ls', which jobs"),
        ({"sbatch": ("--no-requeue",)}, "resources.sbatch has '--no-requeue', which jobs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        ResourcesConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("time", ["7", "0:07:00", "24:00:00", "1-0", "0", "UNLIMITED", ""])
def test_time_limits_that_leave_time(time: str) -> None:
    assert ResourcesConfig(time=time).time == time


@pytest.mark.parametrize(
    ("partitions", "settings", "environment", "match"),
    [
        ("debug*|4|5:00|30:00", {}, {}, "without resources.time a job of partition debug has 5:00 .*warning_s=300"),
        ("debug*|4|n/a|5:00", {}, {}, "a job of partition debug has 5:00"),
        ("debug*|4|n/a|30:00", {"time": "1:00:00"}, {}, "debug allows 30:00 .*, resources.time is 1:00:00: set it to"),
        ("debug*|4|n/a|30:00", {"time": "0"}, {}, "debug allows 30:00"),
        ("main*|4|n/a|infinite", {}, {"SBATCH_TIMELIMIT": "3"}, "a job of partition main has 3 "),
        ("main*|4|n/a|1:00:00", {}, {"SBATCH_TIMELIMIT": "90"}, "main allows 1:00:00 .*, SBATCH_TIMELIMIT is 90"),
        ("debug*|4|5:00|30:00", {"time": "30"}, {}, None),
        ("debug*|4|5:00|30:00", {"warning_s": 20}, {}, None),
        ("a|4|n/a|30:00\nb|4|n/a|2-00:00:00", {"time": "1-0", "partition": "a,b"}, {}, None),
        ("debug*|4|n/a|30:00", {"time": "1:00:00", "sbatch": ("--qos=long",)}, {}, None),
    ],
)
def test_time_limits_of_partitions(
    fake_slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    partitions: str,
    settings: dict[str, Any],
    environment: dict[str, str],
    match: str | None,
) -> None:
    fake_slurm.say(partitions=partitions)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if match is None:
        slurm.check_machines(ResourcesConfig(**settings))
        return
    with pytest.raises(ValueError, match=match):
        slurm.check_machines(ResourcesConfig(**settings))


@pytest.mark.parametrize(
    ("limit", "warning", "refused"), [("2:00", 300, True), ("3:00", 10, False), ("1-0", 300, False)]
)
def test_a_script_refuses_a_limit_shorter_than_its_warning(
    hosts: FakeSlurm, monkeypatch: pytest.MonkeyPatch, limit: str, warning: int, refused: bool
) -> None:
    hosts.say(limit=limit)
    monkeypatch.setenv("IMDM_WARNING_S", str(warning))
    if not refused:
        slurm.require_allocation()
        return
    with pytest.raises(
        ValueError, match="this job's time limit is 2 minutes, and 300 seconds before it the job goes back"
    ):
        slurm.require_allocation()


@pytest.mark.parametrize(("given", "warning"), [({}, "300"), ({"IMDM_WARNING_S": "30"}, "30")])
def test_a_script_says_when_it_is_warned(tmp_path: Path, given: dict[str, str], warning: str) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$IMDM_WARNING_S"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "IMDM_HOME": str(ROOT), "IMDM_PYTHON": str(tmp_path / "python"), **given}
    command = ["bash", str(ROOT / "slurm" / "train.sh"), "runs/x"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == f"{warning}\n"


# Names of logs


def tiny_chain(home: Path, *overrides: str) -> Chain:
    home.mkdir(parents=True, exist_ok=True)
    return load_chain(tiny.chain(home), overrides)


@pytest.mark.parametrize("name", ["100%x", "a b", "co:lon", "it's", "%"])
def test_a_log_is_where_it_was_named(fake_slurm: FakeSlurm, tmp_path: Path, name: str) -> None:
    submit_chain(tiny_chain(tmp_path), tmp_path / name)
    asked = (fake_slurm.folder / "sbatch-asked").read_text()
    place = str((tmp_path / name / "tiny" / "logs").resolve()).replace("%", "%%")
    for log in ("teacher-%j", "pairs-%A_%a", "prepare_data-%j"):
        assert f"--output={shlex.quote(f'{place}/{log}.log')}\n" in asked


def test_a_path_that_cannot_be_named_is_refused(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    resources = tiny_chain(tmp_path).stage("teacher").config.resources
    for name in ("100%j", "back\\slash", "two\nlines"):
        with pytest.raises(ValueError, match="take another folder"):
            submit_chain(tiny_chain(tmp_path), tmp_path / name)
        with pytest.raises(ValueError, match="take another folder"):
            script(resources, tmp_path / name)
    assert not fake_slurm.submitted
    with pytest.raises(ValueError, match="is 300 bytes long: take 100 or fewer"):
        tiny_chain(tmp_path / "long", *[]) and load_chain(long_name(tmp_path))


def long_name(home: Path) -> Path:
    path = home / "long.yaml"
    path.write_text(tiny.chain(home).read_text().replace("name: tiny", f"name: {'n' * 300}"))
    return path


def test_names_of_other_jobs_of_the_user_may_hold_anything(fake_slurm: FakeSlurm) -> None:
    fake_slurm.say(queue="5|N/A|RUNNING|None|1:00|node1|a|b\nrest of it\n6|1|PENDING|Priority|1:00||c")
    assert [(job.id, job.name, job.element) for job in slurm.queue()] == [(5, "a|b", ""), (6, "c", "1")]


# What waits for what


def test_what_starts_from_a_coupling_waits_for_its_end_alone(
    fake_slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = submit_chain(tiny_chain(tmp_path, "teacher/resources.time=2:00:00"), tmp_path / "runs")
    waits = {
        name: next((o for o in options if o.startswith("--dependency=")), "")
        for name, options in ((o[0].split(".")[1], o) for o in fake_slurm.submitted)
    }
    ids = {name: job.id for name, job in jobs.items()}
    assert waits["sdtt"] == f"--dependency=afterok:{ids['prepare_data']}:{ids['teacher']}"
    assert waits["redi"] == f"--dependency=afterok:{ids['prepare_data']}:{ids['sdtt']},afterany:{ids['pairs']}"
    assert f"teacher: job {ids['teacher']}, 2.0 hours at most after" in capsys.readouterr().err


def test_a_part_of_a_chain_is_submitted(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    chain = tiny_chain(tmp_path)
    jobs = submit_chain(chain, tmp_path / "runs", stages=needed(chain, "sdtt"))
    assert set(jobs) == {"prepare_data", "teacher", "sdtt"} and len(fake_slurm.submitted) == 3


# Who is at work


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, Path]:
    """A chain whose data are packed, and the folder of all runs."""
    home = tmp_path_factory.mktemp("begun")
    chain = tiny_chain(home)
    prepare(chain.stages[0].config.data)
    return chain, home


def work_on(
    chain: Chain, root: Path, monkeypatch: pytest.MonkeyPatch, stage: str = "teacher", **beat: str | int
) -> Path:
    """Leave what a job of slurm/*.sh leaves that is at work on a stage; `beat` changes its heartbeat."""
    home = root / chain.name
    folder = survey(chain, home)[stage].folder
    assert folder is not None
    folder.mkdir(parents=True)
    if stage == "teacher":
        write_heartbeat(LoopStatus(3, 12), folder, 1)
        path = folder / "heartbeat.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"job": "51"} | beat))
    else:
        monkeypatch.setenv("SLURM_JOB_ID", "51")
        write_order(home, root / "chain.yaml", stage, {stage: folder})
        monkeypatch.delenv("SLURM_JOB_ID")
    return folder


def queue_line(state: str, job: int = 51, name: str = "lm1b_small_redi", element: str = "N/A") -> str:
    return f"{job}|{element}|{state}|None|1:00|node1|{name}"


@pytest.mark.parametrize("stage", ["teacher", "judge"])
def test_a_job_of_a_script_is_seen(
    fake_slurm: FakeSlurm,
    begun: tuple[Chain, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    chain, root = begun[0], tmp_path / "runs"
    work_on(chain, root, monkeypatch, stage)
    for state, shown in (("RUNNING", "running"), ("PENDING", "queued")):
        fake_slurm.say(queue=queue_line(state))
        row = next(row for row in status(chain, root) if row.stage == stage)
        assert (row.state, row.job) == (shown, "51")
    jobs = submit_chain(chain, root)
    assert jobs[stage].id == 51
    assert f"{stage}: job 51 is in the queue already" in capsys.readouterr().err
    after = next(o for o in fake_slurm.submitted if o[0].split(".")[1] == {"teacher": "sdtt", "judge": "table"}[stage])
    assert any(option.startswith("--dependency=afterok:") and "51" in option for option in after)
    assert len(jobs) == 6 and len(fake_slurm.submitted) == 5
    assert cancel_chain(root / chain.name) == [51]
    assert fake_slurm.asked[-1] == "scancel 51"


def test_a_job_of_a_script_that_has_ended_is_no_hindrance(
    fake_slurm: FakeSlurm, begun: tuple[Chain, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, root = begun[0], tmp_path / "runs"
    work_on(chain, root, monkeypatch)
    fake_slurm.say(queue=queue_line("NODE_FAIL"))
    assert submit_chain(chain, root)["teacher"].id != 51


def test_a_process_without_a_job_is_seen(
    fake_slurm: FakeSlurm, begun: tuple[Chain, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, root = begun[0], tmp_path / "runs"
    folder = work_on(chain, root, monkeypatch, job="")
    row = status(chain, root)[0]
    assert (row.state, row.note) == ("running", f"process {os.getpid()} on {socket.gethostname()}")
    with pytest.raises(ValueError, match=f"stage teacher is being made by process {os.getpid()} on .*: wait for its"):
        submit_chain(chain, root)
    assert not fake_slurm.submitted
    beat = json.loads((folder / "heartbeat.json").read_text())
    for change in ({"time": time.time() - 600}, {"state": "failed"}, {"pid": 2**22 + 1}):
        (folder / "heartbeat.json").write_text(json.dumps(beat | change))
        assert status(chain, root)[0].state == "half done", change
    (folder / "heartbeat.json").write_text("")  # after a power cut
    assert activity_in(folder, noted_jobs(root / chain.name).get(folder.name, ()), []) is None
    # On another machine, in a job of another user.
    (folder / "heartbeat.json").write_text(json.dumps(beat | {"pid": 2**22 + 1, "host": "elsewhere", "job": "9"}))
    fake_slurm.say(accounting="9|CANCELLED by 0")
    assert status(chain, root)[0].state == "half done"
    fake_slurm.say(accounting="")
    assert status(chain, root)[0].note == f"job 9, process {2**22 + 1} on elsewhere"


def test_a_run_is_not_submitted_a_second_time(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    (tmp_path / "submitit").mkdir()
    (tmp_path / "submitit" / "51_submission.sh").touch()
    for state in ("PENDING", "RUNNING"):
        fake_slurm.say(queue=queue_line(state))
        with pytest.raises(ValueError, match="is being made by job 51: wait for its end, or stop it first"):
            check_idle(tmp_path, submitted_before(tmp_path))
    fake_slurm.say(queue=queue_line("COMPLETED"))
    check_idle(tmp_path, submitted_before(tmp_path))
    write_heartbeat(LoopStatus(3, 12), tmp_path, 1)
    with pytest.raises(ValueError, match=f"is being made by process {os.getpid()} on "):
        check_idle(tmp_path, [])


def test_a_job_whose_inputs_are_not_whole_says_so(begun: tuple[Chain, Path], tmp_path: Path) -> None:
    chain = begun[0]
    said = r"^stage redi starts from teacher, which is missing \(was never made\): imdm_dist run makes it"
    with pytest.raises(ValueError, match=said):
        make_stages(chain, needed(chain, "redi"), tmp_path, lambda stage, folders: None, only=True)


# Where the log is


def test_a_job_that_ended_names_its_log_if_there_is_one(
    fake_slurm: FakeSlurm, begun: tuple[Chain, Path], tmp_path: Path
) -> None:
    chain, root = begun[0], tmp_path / "runs"
    home = root / chain.name
    for stage, number in (("teacher", 51), ("judge", 52)):
        note_job(home, stage, SubmittedJob(number, "key"))
    fake_slurm.say(queue="\n".join(queue_line("FAILED", number) for number in (51, 52)))
    (home / "logs").mkdir()
    (home / "logs" / "teacher-51.log").touch()
    notes = {row.stage: row.note for row in status(chain, root)}
    assert notes["teacher"] == f"job ended as failed: see {home}/logs/teacher-51.log"
    assert notes["judge"] == "job ended as failed before it began"


# A process that dies


def test_a_job_of_which_a_process_died_is_queued_again_a_bounded_number_of_times(
    hosts: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        return launch(monkeypatch, tmp_path, die, "--restarts", "2", "--folder", "run")

    for count in (1, 2):
        assert run() == EXIT_STOPPED
        assert re.search(
            f"exit code -9: .*; restart {count} of 2 in a row without progress\n\\Z", capfd.readouterr().err
        )
        assert hosts.asked == ["scontrol requeue 7"] * count
    assert run() == 2 and len(hosts.asked) == 2
    assert "restarted 2 times in a row without a new checkpoint or shard (resources.restarts)" in capfd.readouterr().err
    (tmp_path / "run" / "step-00000020").mkdir()
    assert run() == EXIT_STOPPED and len(hosts.asked) == 3
    hosts.say(state="CANCELLED")  # it is SLURM's
    assert run() == 2 and len(hosts.asked) == 3


def test_a_refusal_counts_though_the_other_processes_are_killed_for_it(
    hosts: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse = (
        "from imdm_dist.error_boundary import guarded\ndef main(): raise ValueError('no such text')\nguarded(main)\n"
    )
    # As srun does: the highest code is that of a process it killed.
    (hosts.folder / "srun").write_text('#!/bin/sh\nshift; "$@"; exit 143\n')
    for _ in range(2):
        assert launch(monkeypatch, tmp_path, refuse, "--restarts", "3", "--folder", "run") == 2
    assert hosts.asked == []
    assert "error: no such text\nerror: its processes ended with exit code 143" in capfd.readouterr().err
    (hosts.folder / "srun").write_text("#!/bin/sh\nexit 143\n")
    assert launch(monkeypatch, tmp_path, refuse, "--restarts", "3", "--folder", "run") == EXIT_STOPPED


@pytest.mark.parametrize("restarts", ["0", "3"])
def test_what_the_user_has_to_mend_is_not_tried_again(
    hosts: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], restarts: str
) -> None:
    refuse = "import sys; print('error: no', file=sys.stderr); sys.exit(2)"
    assert launch(monkeypatch, tmp_path, refuse, "--restarts", restarts, "--folder", "run") == 2
    assert hosts.asked == []
    said = capfd.readouterr().err
    assert said == "error: no\nerror: its processes ended with exit code 2: see the messages above\n"


def test_processes_that_do_not_wait_for_each_other_start_again_in_place(
    hosts: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    once = "import pathlib, sys; p = pathlib.Path('was'); sys.exit(0 if p.exists() else p.touch() or 9)"
    assert launch(monkeypatch, tmp_path, once, "--apart", "--restarts", "1") == 0
    assert hosts.asked == []
    assert "ended with exit code 9: see the messages above; started again\n" in capfd.readouterr().err


def test_a_submitted_run_of_which_a_process_died(
    hosts: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Submitit runs in the batch script, here as SLURM would."""
    run = tmp_path / "a run"
    config = tiny_chain(tmp_path, "resources.nodes=1").stage("teacher").config
    job = submit_run(config, run, local=False)
    assert job.paths.submission_file.exists()
    (hosts.folder / "srun").write_text("#!/bin/sh\nexit $CODE\n")

    def end(code: int) -> tuple[int, list[str]]:
        environment = {**os.environ, "CODE": str(code), "SLURM_JOB_ID": job.job_id, "SLURM_JOB_NODELIST": "node1"}
        done = subprocess.run(["bash", job.paths.submission_file], env=environment)
        return done.returncode, hosts.asked

    again = f"scontrol requeue {job.job_id}"
    assert end(0) == (0, [])
    assert end(EXIT_STOPPED) == (EXIT_STOPPED, [again])
    assert end(137) == (EXIT_STOPPED, [again, again])
    assert end(2) == (2, [again, again])


def test_crashes_are_counted_anew_after_progress(tmp_path: Path) -> None:
    run = tmp_path / "run"
    counts = []
    for name in ("", "", "step-00000010", "", "shard-00000.parquet", ""):
        if name:
            (run / name).mkdir(parents=True)
        counts.append(count_crash(run / "logs" / "restarts-7.json", newest_result(run)))
    assert counts == [1, 2, 1, 2, 1, 2]


# How fast a coupling is made


TOKENS = {"length": 8, "vocab_size": 9, "mask_id": 8}


def coupling_of(folder: Path, finished: list[float], workers: int, shards: int = 400) -> Path:
    """A coupling of 10 pairs a shard whose shards were finished at these seconds after its beginning."""
    (folder / "leases").mkdir(parents=True)
    (folder / "coupling.json").write_text(json.dumps({"shards": shards, "pairs": 10 * shards} | TOKENS))
    os.utime(folder / "coupling.json", (1e9, 1e9))
    for shard, seconds in enumerate(finished):
        path = folder / f"shard-{shard:05d}.parquet"
        path.touch()
        os.utime(path, (1e9 + seconds, 1e9 + seconds))
    for worker in range(workers):
        lease = {"host": f"host{worker % 2}", "pid": 1, "started": "", "token": ""}
        (folder / "leases" / f"shard-{shards - 1 - worker:05d}.lease").write_text(json.dumps(lease))
    return folder


@pytest.mark.parametrize(
    ("finished", "workers", "rate"),
    [
        ([], 4, None),
        ([10.0, 10.1], 0, None),  # nobody works there, and a copy has other times
        ([10.0], 4, None),  # three more are about to come
        ([10.0, 10.1, 10.2, 10.3], 4, 40 / 10.3),
        ([10.0], 1, 1.0),
        ([10.0 * (1 + shard // 100) + shard % 100 / 1000 for shard in range(200)], 100, 2000 / 20.099),
        ([float(shard) for shard in range(1, 101)], 1, 10.0),
        ([1000.0 + shard for shard in range(101)], 1, 10.0),  # of the newest alone: it had waited
    ],
)
def test_the_pace_of_a_coupling_from_its_first_shards_on(
    tmp_path: Path, finished: list[float], workers: int, rate: float | None
) -> None:
    there = coupling_progress(coupling_of(tmp_path / "pairs", finished, workers))
    assert there is not None
    assert there.pairs_per_s == (None if rate is None else pytest.approx(rate, rel=1e-6))
