"""GPT-2-small with an infinite mask in the trainer: stopped by a signal, resumed, and held against a whole run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu_parts.report import Report
from imdm_dist.config import Config, load_config
from imdm_dist.training import loop
from imdm_dist.training.metrics import read_metrics

RESUMED = 1e-3
"""Largest relative difference of a loss after the stop. Kernels are deterministic where there are such."""
SMALL = [
    "model.size=small", "model.mask.noise_dim=768", "data.length=512", "data.bpe_size=8192",
    "optimizer.warmup_steps=10", "train.global_batch=32", "engine.micro_batch=16", "train.steps=30",
]  # fmt: skip
QUICK = [
    "model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2", "model.mask.noise_dim=8",
    "data.source=files", "data.valid_share=0.1", "data.length=16", "data.bpe_size=300", "optimizer.warmup_steps=0",
    "optimizer.lr=0.01", "train.global_batch=8", "engine.micro_batch=4", "train.steps=6",
]  # fmt: skip
ALWAYS = [
    "model.mask.kind=infinite", "engine.zero_stage=1", "engine.precision=bf16", "train.log_every=1",
    "train.save_every=1000", "train.valid_rows=64", "train.deterministic=true",
]  # fmt: skip


def run(report: Report) -> None:
    """Train, train again with a stop in the middle, and compare."""
    settings = [*(QUICK if report.quick else SMALL), *ALWAYS, f"data.cache={report.work / 'data'}"]
    if report.quick:  # to read the embedded text takes seconds
        text = report.work / "text.txt"
        text.write_text("".join(f"line {i} has the words {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(300)))
        settings.append(f"data.train={text}")
    config = load_config(Config, None, settings)
    steps = config.train.steps
    config = load_config(Config, None, [*settings, f"train.valid_every={steps}"])
    whole, broken = report.work / "whole", report.work / "broken"
    loop.train(config, whole)
    losses = _losses(whole)
    few = max(1, steps // 6)
    fell = sum(losses[step] for step in list(losses)[-few:]) / sum(losses[step] for step in list(losses)[:few])
    report.check(f"mean loss of the last {few} steps over that of the first", fell, 1.0 if report.quick else 0.95)
    report.figure("validation NELBO", _values(whole, "valid_nelbo_raw")[steps], "nats")
    report.figure("tokens a second of the last step", _values(whole, "tokens_per_s")[steps], "1/s")
    report.check("runs that a signal did not stop", loop_stopped_at(steps // 2, config, broken), 0)
    report.check("runs that did not go on to the end", not loop.train(config, broken), 0)
    resumed = _losses(broken)
    worst = max(abs(resumed[step] / loss - 1) for step, loss in losses.items())
    report.check("loss of the resumed run against the whole one, relative", worst, RESUMED)
    report.figure("steps whose loss differs at all", sum(resumed[step] != loss for step, loss in losses.items()), "")
    validated = [_values(folder, "valid_nelbo_raw")[steps] for folder in (whole, broken)]
    report.check("validation NELBO of the two, relative", abs(validated[1] / validated[0] - 1), RESUMED)


def loop_stopped_at(step: int, config: Config, folder: Path) -> bool:
    """Train with a SIGTERM at a step; whether the run came to its end nevertheless."""
    real = loop.learning_rate

    def signalling(optimizer: Any, done: int, last: int) -> float:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(optimizer, done, last)

    with mock.patch.object(loop, "learning_rate", signalling):
        return loop.train(config, folder)


def _values(folder: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_metrics(folder) if key in line}


def _losses(folder: Path) -> dict[int, float]:
    return _values(folder, "loss")
