"""Checkpoints as files: whole or not there, whatever happens while they are written."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from imdm_dist.config import Config, DataConfig, ModelConfig, TrainConfig, to_dict
from imdm_dist.training import checkpoint
from imdm_dist.training.checkpoint import newest_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TENSORS = {"weights": {"a": torch.arange(4.0)}, "ema": {"a": torch.zeros(4)}, "objective": {}}


def test_empty_groups_make_no_file_and_files_are_listed_with_their_sums(tmp_path):
    path = save_checkpoint(tmp_path, 3, TENSORS, {"config": {}}, keep_last=2)
    assert sorted(file.name for file in path.iterdir()) == ["ema.safetensors", "state.json", "weights.safetensors"]
    assert set(checkpoint.check(path)["files"]) == {"ema.safetensors", "weights.safetensors"}


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, {"config": {}}, keep_last=1)
    real = checkpoint.save_file

    def full(tensors, file):
        if "ema" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, TENSORS, {"config": {}}, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_unknown_format_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, {"config": {}}, keep_last=1)
    (path / "state.json").write_text((path / "state.json").read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="format 9"):
        checkpoint.check(path)


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path):
    """SIGKILL three times, each a moment after some checkpoint; whole checkpoints only, and the same end."""
    config = Config(
        model=ModelConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2, dropout=0.1),
        data=DataConfig(source="synthetic", cache=str(tmp_path / "data")),
        train=TrainConfig(steps=120, global_batch=8, save_every=2, log_every=10),
    )
    settings = [f"{s}.{k}={v}" for s in ("model", "train") for k, v in to_dict(config)[s].items() if k != "mask"]
    settings += ["data.source=synthetic", f"data.cache={tmp_path / 'data'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(folder):
        return [sys.executable, str(ROOT / "tools" / "train.py"), str(folder), *settings]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True)
    killed = tmp_path / "killed"
    for moment in (0.0, 0.013, 0.029):
        process = subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL)
        before = newest_checkpoint(killed)
        deadline = time.monotonic() + 60
        while (newest_checkpoint(killed) or [None])[0] == (before or [None])[0] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = newest_checkpoint(killed)
        assert found is not None and found[1]["step"] < 120
    subprocess.run(command(killed), env=environment, check=True, capture_output=True)
    for name in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        files = [
            (folder / "step-00000120" / f"{name}.safetensors").read_bytes() for folder in (killed, tmp_path / "whole")
        ]
        assert files[0] == files[1]
    assert not list(killed.glob(".*.tmp"))
