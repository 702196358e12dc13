"""Training in a process that goes on after it: its memory is bounded, and what it sets is put back."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from imdm_dist.config import Config, DataConfig, EngineConfig, TrainConfig
from imdm_dist.device import KERNEL_CACHES, KERNELS, flushed_denormals
from imdm_dist.model.dit import DitConfig
from imdm_dist.training import logger
from imdm_dist.training.loop import train

GROWTH = """
import torch
from imdm_dist.device import few_kernels
from imdm_dist.planning.measure import resident
few_kernels()
torch.set_num_threads(1)
def products(first, last):
    for rows in range(first, last):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ torch.ones(64, 512, dtype=torch.bfloat16)
products(1000, 1200)
before = resident("VmRSS")
products(1200, 1600)
print(resident("VmRSS") - before)
"""


def test_kernels_for_many_numbers_of_rows_do_not_pile_up() -> None:
    others = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    grown = {}
    for kept in ("", "1024"):
        have = others | (dict.fromkeys(KERNEL_CACHES, kept) if kept else {})
        done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, env=have, check=True)
        grown[kept] = int(done.stdout)
    if grown["1024"] < 16e6:
        pytest.skip("on this processor torch does not use oneDNN for bfloat16")
    assert grown[""] < grown["1024"] / 4


def is_flushed(threads: int = 1) -> list[bool]:
    """Whether denormal numbers are zero, in every piece that a thread works on."""
    torch.set_num_threads(threads)
    try:
        halves = torch.full((2_000_000,), torch.finfo(torch.float32).tiny) / 2
        bits = halves.view(torch.int32)  # a comparison of floats would be flushed itself
        return [not bool(part.any()) for part in bits.chunk(threads)]
    finally:
        torch.set_num_threads(1)


def test_denormal_numbers_are_zero_inside_alone_on_all_threads() -> None:
    assert is_flushed(2) == [False, False]
    with flushed_denormals():
        assert is_flushed(2) == [True, True]
        with flushed_denormals():
            pass
        assert is_flushed(2) == [True, True]
    assert is_flushed(2) == [False, False]


@pytest.mark.parametrize("ending", ["whole", "failed"])
def test_what_training_sets_for_the_process_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    def state() -> tuple[Any, ...]:
        flags = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.get_num_threads()
        generator = torch.get_rng_state().tolist()
        return is_flushed(), dict(os.environ), list(warnings.filters), F.linear, flags, generator

    config = Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2),
        data=DataConfig(source="synthetic", cache=str(tmp_path / "data")),
        engine=EngineConfig(zero_stage=3),
        train=TrainConfig(steps=2, global_batch=8, log_every=1, deterministic=True),
    )
    inside = []
    console = logger.console

    def look(line: dict[str, Any]) -> str:
        inside.append(is_flushed())
        if ending == "failed":
            raise RuntimeError("boom")
        return console(line)

    monkeypatch.setattr(logger, "console", look)
    for name in KERNEL_CACHES:  # these stay
        monkeypatch.setenv(name, str(KERNELS))
    before = state()
    if ending == "whole":
        assert train(config, tmp_path / "run")
    else:
        with pytest.raises(RuntimeError, match="boom"):
            train(config, tmp_path / "run")
    assert inside[0] == [True]
    assert state() == before
