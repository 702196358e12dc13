"""An objective's own state: of any names and shapes, it is in checkpoints, and a resumed run goes on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imdm_dist.config import Config, load_config
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics

SETTINGS = (
    "data.source=synthetic",
    "data.length=2",
    "model.size=custom",
    "model.hidden_dim=16",
    "model.n_blocks=1",
    "model.n_heads=2",
    "train.steps=4",
    "train.global_batch=4",
    "train.save_every=2",
    "train.keep_last=3",
    "train.log_every=1",
    "optimizer.warmup_steps=1",
    "objective.kind=tests.training.damped:Damped",
)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_state_of_any_name_is_saved_and_a_resumed_run_goes_on_with_it(tmp_path: Path, zero_stage: int) -> None:
    settings = [*SETTINGS, f"data.cache={tmp_path / 'data'}", f"engine.zero_stage={zero_stage}"]
    config = load_config(Config, None, settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(config, whole)
    broken.mkdir()
    shutil.copytree(whole / "step-00000002", broken / "step-00000002")
    assert train(config, broken)
    lines = read_metrics(whole)
    assert [line["factor"] for line in lines] == [0.75**step for step in range(4)]
    assert [line["loss"] for line in lines[2:]] == [line["loss"] for line in read_metrics(broken)]
