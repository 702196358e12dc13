"""Ctrl-C: the first one saves where there is something to save, the second one ends at once, and what is said is so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imdm_dist import signals
from imdm_dist.chain import rollouts
from imdm_dist.checkpoint.read import find_checkpoint
from imdm_dist.checkpoint.retain import lost_without
from imdm_dist.checkpoint.write import Saver
from imdm_dist.config import Config, CouplingConfig, DataConfig, EvaluatorConfig, TrainConfig
from imdm_dist.coupling.shard import present_shards
from imdm_dist.data import prepare
from imdm_dist.error_boundary import guarded
from imdm_dist.evaluation import causal_lm
from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_STOPPED
from imdm_dist.model.dit import DitConfig
from imdm_dist.training import loop, setup
from imdm_dist.training.logger import Logger
from imdm_dist.training.loop import train
from tests.cluster import tiny
from tests.runs import beat_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def every_press_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "AGAIN_S", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background of a script
    yield
    signal.signal(signal.SIGINT, before)


def config(cache: Path, **train: Any) -> Config:
    settings = {"steps": 60, "global_batch": 8, "log_every": 1, "save_every": 4, "valid_rows": 2} | train
    return Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(cache)),
        train=TrainConfig(**settings),
    )


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *calls: int) -> None:
    """Press Ctrl-C within some calls of a function, counted from 1."""
    function = getattr(owner, name)
    seen: list[None] = []

    def pressing(*arguments: Any, **named: Any) -> Any:
        seen.append(None)
        if len(seen) in calls:
            press()
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, pressing)


@pytest.mark.parametrize(
    ("owner", "name", "at", "settings"),
    [
        (Logger, "step", 6, {}),
        (loop, "validation_sums", 3, {"valid_every": 2}),
        (Saver, "_join", 3, {"async_save": False}),
    ],
    ids=["a step", "a validation", "a save"],
)
def test_the_first_one_saves_and_stops(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    at: int,
    settings: dict[str, Any],
) -> None:
    with monkeypatch.context() as patch:
        press_at(patch, owner, name, at)
        assert not train(config(cache, **settings), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    found, beat = find_checkpoint(tmp_path / "run"), beat_of(tmp_path / "run")
    assert beat.state == "stopped" and 6 <= beat.step == found.step <= 10
    said = capsys.readouterr().err
    assert said.count("saving after this step, press Ctrl-C again to end at once") == 1
    assert f"stopped at step {found.step} of 60 (Ctrl-C): run the same command to go on" in said
    assert train(config(cache, steps=found.step + 1), tmp_path / "run")


def test_the_second_one_ends_at_once_and_says_which_steps_are_lost(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_at(monkeypatch, Logger, "step", 7, 8)
    with pytest.raises(KeyboardInterrupt) as raised:
        train(config(cache, async_save=False), tmp_path / "run")
    words = "steps 5 to 8 are lost, the last checkpoint is of step 4; the same command goes on from there"
    assert str(raised.value) == words
    assert find_checkpoint(tmp_path / "run").step == 4
    assert beat_of(tmp_path / "run").state == "stopped"


def test_before_the_first_step_it_ends_at_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press_at(monkeypatch, setup, "prepare", 1)
    with pytest.raises(KeyboardInterrupt):
        train(config(cache), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_started_to_ignore_it_does(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press_at(monkeypatch, Logger, "step", 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert train(config(cache, steps=5), tmp_path / "run")


def test_what_is_lost(tmp_path: Path) -> None:
    assert lost_without(tmp_path, 0, 0) == "no step was done"
    assert lost_without(tmp_path, 0, 1) == "step 1 is lost, there is no checkpoint yet"
    assert lost_without(tmp_path, 300, 302) == "steps 301 to 302 are lost, the last checkpoint is of step 300"
    (tmp_path / "step-00000400").mkdir()
    assert lost_without(tmp_path, 300, 470) == "steps 401 to 470 are lost, the last checkpoint is of step 400"
    assert lost_without(tmp_path, 300, 400) == "nothing is lost, the last checkpoint is of step 400"


def test_one_press_that_is_told_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "AGAIN_S", 60.0)
    monkeypatch.setattr(signals, "_pressed", float("-inf"))
    assert signals.another_press() and not signals.another_press()


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_a_tool_says_one_line_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, lines: int
) -> None:
    monkeypatch.setenv("RANK", rank)

    def main() -> None:
        with signals.interrupted(lambda: "outer"), signals.interrupted(lambda: "3 of 4 are kept"):
            press()

    with pytest.raises(SystemExit) as end:
        guarded(main)
    assert end.value.code == EXIT_INTERRUPTED
    said = capsys.readouterr().err.splitlines()
    assert said == ["ended by Ctrl-C; 3 of 4 are kept"][:lines]


def test_a_coupling_keeps_its_whole_shards(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = config(cache, steps=1)
    train(base, tmp_path / "teacher")
    made = replace(base, coupling=CouplingConfig(pairs=12, shards=4, steps=2, kind="plain", batch=3))
    press_at(monkeypatch, rollouts, "sample", 3)
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt, match="2 of 4 shards are kept, the same command makes the rest"):
            rollouts.generate_coupling(made, tmp_path / "teacher", tmp_path / "pairs", workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert len(present_shards(tmp_path / "pairs", 4)) == 2
    rollouts.generate_coupling(made, tmp_path / "teacher", tmp_path / "pairs", workers=1)
    assert len(present_shards(tmp_path / "pairs", 4)) == 4


def test_packing_and_an_evaluator_leave_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare(DataConfig(source="synthetic", cache=str(cache)))
    evaluator = EvaluatorConfig(hidden_dim=8, n_blocks=1, n_heads=1, steps=20, batch=2)
    with monkeypatch.context() as patch:
        press_at(patch, causal_lm, "_rate", 3)
        with pytest.raises(KeyboardInterrupt, match="nothing is kept of the evaluator"):
            causal_lm.train_evaluator(evaluator, data.train, data.valid, tmp_path / "evaluator")
    assert list(tmp_path.iterdir()) == []
    texts = tmp_path / "text.txt"
    texts.write_text("some words\n" * 50)
    press_at(monkeypatch, sys.modules["imdm_dist.data.prepare"], "pack", 1)
    settings = DataConfig(
        source="files", train=(str(texts),), valid=(str(texts),), bpe_size=300, length=8, cache=str(tmp_path / "cache")
    )
    with pytest.raises(KeyboardInterrupt, match="rows of 8 tokens from files text: not finished, will be built"):
        prepare(settings)
    left = [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")]
    assert len(left) == 1 and left[0].startswith("bpe-")


def start(command: list[str | Path], cwd: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False], ids=["to all", "to the first process"])
def test_two_processes_of_this_machine_save(tmp_path: Path, terminal: bool) -> None:
    chain = tiny.chain(tmp_path, train={"steps": 100000, "save_every": 100000})
    tool = ROOT / "tools" / "pipeline.py"
    command: list[str | Path] = [
        tool,
        "here",
        chain,
        "--stage",
        "teacher",
        "--local",
        "--processes",
        "2",
        "--root",
        "runs",
    ]
    process = start(command, tmp_path)
    deadline = time.monotonic() + 120
    while tiny.steps_done(tmp_path / "runs", "teacher") < 4:
        if time.monotonic() > deadline or process.poll() is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # else its output would not end
            pytest.fail(process.communicate()[0])
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT) if terminal else process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == EXIT_STOPPED, output
    assert "Traceback" not in output
    assert output.count("saving after this step") == 1
    folder = tiny.folder_of(tmp_path / "runs", "teacher")
    assert find_checkpoint(folder).step == beat_of(folder).step >= 4
    assert beat_of(folder).state == "stopped"
