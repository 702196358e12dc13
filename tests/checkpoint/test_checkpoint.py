"""Checkpoints as files: whole or not there, whatever happens while they are written."""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from imdm_dist.checkpoint import format as checkpoint_format
from imdm_dist.checkpoint.format import Piece
from imdm_dist.checkpoint.read import Checkpoint, newest_checkpoint, open_checkpoint
from imdm_dist.checkpoint.retain import Retention
from imdm_dist.checkpoint.write import Saver, owners
from imdm_dist.config import Config, DataConfig, TrainConfig, to_dict
from imdm_dist.model.dit import DitConfig
from imdm_dist.parallel.topology import form_topology

ROOT = Path(__file__).resolve().parents[2]
PIECES = {"weights": {"a": Piece(0, torch.arange(4.0))}, "ema": {"a": Piece(0, torch.zeros(4))}}
ABOUT = {"config": {}, "shapes": {"a": [4]}, "ranks": {"tensor_parallel": 1, "data_parallel": 1}}


def saver(folder: Path, keep_last: int = 2) -> Saver:
    return Saver(folder, form_topology(1, DitConfig()), Retention(keep_last))


@pytest.mark.parametrize("background", [False, True])
def test_files_are_listed_with_their_sums_and_read_back(tmp_path: Path, background: bool) -> None:
    writer = saver(tmp_path)
    writer.save(3, PIECES, ABOUT, background)
    writer.wait()
    path = tmp_path / "step-00000003"
    assert sorted(file.name for file in path.iterdir()) == ["ema.safetensors", "state.json", "weights.safetensors"]
    found = open_checkpoint(path)
    assert set(found.state["files"]) == {"ema.safetensors", "weights.safetensors"}
    assert torch.equal(found.full("weights", "a"), torch.arange(4.0))
    assert (tmp_path / "latest").read_text() == "step-00000003\n"
    assert not list(tmp_path.glob(".*"))


def test_large_quantities_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_format, "FILE_BYTES", 20)
    pieces = {"weights": {name: Piece(0, torch.full((3,), float(i))) for i, name in enumerate("abcd")}}
    saver(tmp_path).save(1, pieces, ABOUT | {"shapes": dict.fromkeys("abcd", [3])}, False)
    found = open_checkpoint(tmp_path / "step-00000001")
    assert len(found.state["files"]) == 4
    assert [found.full("weights", name)[0].item() for name in "abcd"] == [0.0, 1.0, 2.0, 3.0]


def test_training_may_change_what_a_background_save_writes(tmp_path: Path) -> None:
    live = torch.zeros(1000)
    writer = saver(tmp_path)
    writer.save(1, {"weights": {"a": Piece(0, live)}}, ABOUT | {"shapes": {"a": [1000]}}, True)
    live.fill_(7)
    writer.wait()
    assert float(open_checkpoint(tmp_path / "step-00000001").full("weights", "a").abs().max()) == 0


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    writer = saver(tmp_path, keep_last=1)
    writer.save(1, PIECES, ABOUT, background)
    writer.wait()

    def full(tensors: dict[str, Tensor], file: Path) -> None:
        if "ema" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint_format, "save_file", full)
    with pytest.raises(ValueError, match="could not be written .*No space left.* make room"):
        writer.save(2, PIECES, ABOUT, background)
        writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    saver(tmp_path).save(1, PIECES, ABOUT, False)
    state = tmp_path / "step-00000001" / "state.json"
    state.write_text(state.read_text().replace('"format": 2', '"format": 9'))
    with pytest.raises(ValueError, match="format 9"):
        open_checkpoint(state.parent)


@pytest.mark.parametrize(
    ("retention", "ppl", "kept"),
    [
        (Retention(2), {}, {5, 6}),
        (Retention(1, every=2), {}, {2, 4, 6}),
        (Retention(1), {1: 9.0, 3: 2.0, 5: 3.0, 6: None}, {6}),
        (Retention(1, best=True), {1: 9.0, 3: 2.0, 5: 3.0, 6: None}, {3, 6}),
        # A perplexity that no float holds is never the best; earlier versions wrote nan.
        (Retention(1, best=True), {1: math.nan, 3: 2.0, 5: math.inf, 6: None}, {3, 6}),
        (Retention(1, best=True), {1: None, 2: None}, {6}),
    ],
)
def test_retention(retention: Retention, ppl: dict[int, float | None], kept: set[int]) -> None:
    assert retention.kept(range(1, 7), ppl) == kept


def test_a_checkpoint_without_a_whole_state_is_passed_over_and_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("" if step == 1 else "null")
    assert newest_checkpoint(tmp_path) is None
    assert capsys.readouterr().err.count("state.json is damaged: use another checkpoint") == 3
    Retention(2, best=True).apply(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_what_all_ranks_hold_is_shared_among_them_by_size() -> None:
    sizes = {"a": 8, "b": 5, "c": 4, "d": 1}
    owner = owners(sizes, 2)
    load = [sum(size for name, size in sizes.items() if owner[name] == rank) for rank in range(2)]
    assert load == [9, 9]


def step_of(found: Checkpoint | None) -> int:
    return found.step if found else 0


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL three times, each a moment after some checkpoint; whole checkpoints only, and the same end."""
    config = Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2, dropout=0.1),
        data=DataConfig(source="synthetic", cache=str(tmp_path / "data")),
        train=TrainConfig(steps=120, global_batch=8, save_every=2, log_every=10),
    )
    settings = [f"{s}.{k}={v}" for s in ("model", "train") for k, v in to_dict(config)[s].items() if k != "mask"]
    settings += ["data.source=synthetic", f"data.cache={tmp_path / 'data'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(folder: Path) -> list[str]:
        return [sys.executable, str(ROOT / "tools" / "train.py"), str(folder), *settings]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True)
    killed = tmp_path / "killed"
    for moment in (0.0, 0.013, 0.029):
        process = subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL)
        before = step_of(newest_checkpoint(killed))
        deadline = time.monotonic() + 60
        while step_of(newest_checkpoint(killed)) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = newest_checkpoint(killed)
        assert found is not None and found.step < 120
    subprocess.run(command(killed), env=environment, check=True, capture_output=True)
    for name in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        files = [
            (folder / "step-00000120" / f"{name}.safetensors").read_bytes() for folder in (killed, tmp_path / "whole")
        ]
        assert files[0] == files[1]
    assert not list(killed.glob(".*.tmp"))
