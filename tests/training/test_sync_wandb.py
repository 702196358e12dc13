"""Offline runs of Weights & Biases are sent once, in order, as one run; what fails is said and tried again."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.config import Config, DataConfig, TrainConfig
from imdm_dist.model.dit import DitConfig
from imdm_dist.training import wandb_sync as module
from imdm_dist.training.heartbeat import LoopStatus, write_heartbeat
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import MetricsLog, read_metrics
from imdm_dist.training.wandb_sync import sync, unsynced

ROOT = Path(__file__).resolve().parents[2]
FAKE = """
import pathlib, sys
command, *files = sys.argv[1:]
dry = "--dry-run" in files
assert command == "sync" and files == sorted(files)
for file in map(pathlib.Path, files[dry:]):
    with open({log!r}, "a") as log:
        log.write(file.parent.name + " " * dry + "\\n")
    if dry:
        continue
    if "bad" in file.read_text():
        sys.exit(0)
    file.with_name(file.name + ".synced").touch()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `wandb` that notes what it is called with, marks what it has sent up to a failure, and always exits with 0."""
    log = tmp_path / "calls"
    log.touch()
    (tmp_path / "fake.py").write_text(FAKE.format(log=str(log)))
    monkeypatch.setattr(module, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))
    monkeypatch.setattr(module, "check_server", lambda: None)
    return log


def segment(run: Path, number: int, content: str = "more than a header") -> Path:
    folder = run / "wandb" / f"offline-run-20260101_00000{number}-abc"
    folder.mkdir(parents=True)
    file = folder / "run-abc.wandb"
    file.write_text(content)
    return file


def names(log: Path) -> list[str]:
    return [line[-5] for line in log.read_text().splitlines()]


def test_segments_are_sent_once_in_order_and_a_failure_holds_up_its_own_run_only(tmp_path: Path, fake: Path) -> None:
    runs = tmp_path / "runs"
    torn = segment(runs / "a", 2, "bad, and more")
    for number in (3, 1):
        segment(runs / "a", number)
    segment(runs / "deep" / "b", 4)
    segment(runs / "deep" / "b", 5, ":W&B...")  # killed before its first line
    (runs / "a" / "wandb" / "run-20260101_000009-abc").mkdir()  # recorded online
    found = unsynced([runs, runs / "a"])
    assert {run.name: [file.parent.name[-5] for file in files] for run, files in found.items()} == {
        "a": ["1", "2", "3"],
        "b": ["4"],
    }
    assert not sync(found)
    assert names(fake) == ["1", "2", "4"]
    torn.write_text("mended by now")
    assert [len(files) for files in unsynced([runs]).values()] == [2]
    assert sync(unsynced([runs]))
    assert names(fake) == ["1", "2", "4", "2", "3"]
    assert unsynced([runs]) == {}


def test_the_segment_that_a_run_still_writes_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    for number in (1, 2):
        segment(run, number)
    status = LoopStatus(0, 10)
    write_heartbeat(status, run, 1)
    assert [file.parent.name[-5] for file in unsynced([run])[run]] == ["1"]
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now + module.ALIVE_S + 60)  # killed, it could not say so
        assert len(unsynced([run])[run]) == 2
    status.end = "stopped"
    write_heartbeat(status, run, 1)
    assert len(unsynced([run])[run]) == 2


def test_the_tool(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    file = segment(runs / "a", 1)

    def tool(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["sync_wandb.py", *arguments])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "tools" / "sync_wandb.py"), run_name="__main__")
        return int(left.value.code or 0)

    assert tool(str(runs), "--dry-run") == 0
    assert fake.read_text() == "offline-run-20260101_000001-abc \n"
    file.write_text("bad, and more")
    assert tool(str(runs)) == 1
    file.write_text("mended by now")
    assert tool(str(runs)) == 0
    assert names(fake)[-2:] == ["1", "1"] and capsys.readouterr().out == ""
    assert tool(str(runs)) == 0 and "nothing to send" in capsys.readouterr().out
    assert tool(str(tmp_path / "none")) == 2
    assert "is no folder: name run folders" in capsys.readouterr().err


def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    program = "from imdm_dist.training.wandb_sync import check_server; check_server()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert "http://127.0.0.1:9 does not answer (" in last and "run this where there is a network" in last


def test_real_offline_segments_of_a_resumed_run_share_one_id(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(tmp_path / "data")),
        train=TrainConfig(steps=2, global_batch=8, log_every=1, wandb="offline"),
    )
    run = tmp_path / "run"
    train(config, run)
    time.sleep(1.1)  # segments are named by the second
    train(replace(config, train=replace(config.train, steps=3)), run)
    (files,) = unsynced([tmp_path]).values()
    identity = json.loads((run / "wandb_id.json").read_text())
    assert [file.name for file in files] == [f"run-{identity}.wandb"] * 2
    assert sync(unsynced([tmp_path]), dry_run=True)
    assert "Would sync 2 run(s)" in capfd.readouterr().err


# --- a run that is to be mirrored online


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


def tiny(tmp_path: Path) -> Config:
    return Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(tmp_path / "data")),
        train=TrainConfig(steps=2, global_batch=8, log_every=1, wandb="online"),
    )


def test_without_a_network_a_run_is_recorded_offline_and_goes_on(
    tmp_path: Path, no_key: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_silence", lambda url: "https://w.b does not answer (no route)")
    run = tmp_path / "run"
    run.mkdir()
    (run / "wandb_id.json").touch()  # a power cut has emptied it
    assert train(tiny(tmp_path), run)
    said = [line for line in capsys.readouterr().err.splitlines() if "train.wandb=online" in line]
    assert said == [
        "train.wandb=online, but https://w.b does not answer (no route): recorded offline, imdm_dist sync sends "
        "it later"
    ]
    (files,) = unsynced([tmp_path]).values()
    assert [file.name for file in files] == [f"run-{json.loads((run / 'wandb_id.json').read_text())}.wandb"]
    assert json.loads((run / "config.json").read_text())["config"]["train"]["wandb"] == "online"


@pytest.mark.parametrize(
    ("key", "cause"), [("", "there is no API key (wandb login, or WANDB_API_KEY)"), ("short", "API key must have")]
)
def test_without_a_key_it_is_said_before_anything_is_built(
    key: str, cause: str, no_key: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_silence", lambda url: "")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert module.mirror_mode("online") == "offline"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"train.wandb=online, but {'WANDB_API_KEY invalid: ' if key else ''}{cause}")


def test_what_no_server_answers_from_is_named() -> None:
    assert module._silence("http://127.0.0.1:9").startswith("http://127.0.0.1:9 does not answer (")
    assert module._silence("nowhere") == "nowhere does not answer (unknown url type: 'nowhere')"


def test_a_mirror_that_breaks_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    begun = []

    class Broken:
        def define_metric(self, *_: Any, **__: Any) -> None: ...

        def log(self, line: dict[str, Any]) -> None:
            raise ConnectionResetError("the other process is gone")

    def init(mode: str, **_: Any) -> Broken:
        begun.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("Run initialization has timed out\nafter 30.0 sec.")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    log = MetricsLog(tmp_path, 0, "online", {})
    for step in (1, 2):
        log.write({"step": step})
    log.close()
    assert begun == ["online", "offline"]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    first, second = capsys.readouterr().err.splitlines()
    assert "but Run initialization has timed out after 30.0 sec.: recorded offline" in first
    assert second == "no longer mirrored to Weights & Biases (the other process is gone): see metrics.jsonl"
