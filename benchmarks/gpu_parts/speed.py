"""Tokens a second and peak memory of optimizer steps on random rows, GPT-2-small with the mask of the paper."""

from __future__ import annotations

import math

import torch

from benchmarks.gpu_parts.report import Report
from imdm_dist.config import Config, load_config
from imdm_dist.device import peak_flops
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.flops import step_flops
from imdm_dist.parallel.topology import form_topology
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.measure import random_run
from imdm_dist.planning.memory import BASE
from imdm_dist.planning.plan import build_plan
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.prefetch import Prefetched, seed_dropout
from imdm_dist.training.state import build_state

PLANNED = 0.10
"""Largest relative difference of peak memory from the plan's, the context of the process left out."""
VOCAB = 50_258
SMALL = ["model.size=small", "model.mask.noise_dim=2048", "data.length=1024", "train.global_batch=32"]
QUICK = [
    "model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2", "model.mask.noise_dim=8",
    "data.length=16", "train.global_batch=4",
]  # fmt: skip
ALWAYS = ["model.mask.kind=infinite", "engine.zero_stage=1", "engine.precision=bf16", "train.steps=1"]


def settings(quick: bool, *more: str) -> Config:
    """What is measured."""
    return load_config(Config, None, [*(QUICK if quick else SMALL), *ALWAYS, *more])


def plain(report: Report) -> None:
    """Blocks as they are, and what they take against what was planned."""
    config = settings(report.quick)
    measured = take_steps(report, config)
    if report.device.type == "cuda":
        planned = build_plan(config, Hardware(), VOCAB).memory.peak - BASE["cuda"]
        report.figure("peak memory as planned", planned / 1e9, "GB")
        report.check("peak memory against the plan, relative", abs(measured / planned - 1), PLANNED)


def compiled(report: Report) -> None:
    """Compiled blocks; of a quick look they are left as they are, for a compiler takes its minute."""
    config = settings(report.quick, f"engine.compile={str(not report.quick).lower()}")
    check_compile(config.engine, report.device)
    take_steps(report, config)


def take_steps(report: Report, config: Config) -> int:
    """Time steps as the train loop makes them; return the peak of the allocator, bytes (0 on a CPU)."""
    vocab, warm, timed = (301, 1, 2) if report.quick else (VOCAB, 4, 20)
    cuda = report.device.type == "cuda"
    topology = form_topology(1, config.model)
    before = torch.cuda.memory_allocated() if cuda else 0
    run, model = random_run(config, vocab, topology, report.work)
    state = build_state(run, model, topology)
    engine = state.engine
    loss = torch.zeros(())

    def take(done: int, batches: list[MaskedBatch]) -> None:
        nonlocal loss
        for batch in batches:
            seed_dropout(batch)
            prepared = batch.to(topology.device)
            loss = engine.accumulate(lambda model: state.objective.loss(model, prepared))  # noqa: B023
        engine.step(1e-4)
        state.follow(done)

    started = report.wait()
    for done, batches in enumerate(Prefetched(run.examples, state.objective, 0, warm + timed), start=1):
        take(done, batches)
        if done == warm:
            report.figure("seconds until warm", report.wait() - started, "s")
            started = report.wait()
    seconds = (report.wait() - started) / timed
    with report.waits("times that the GPU is waited for in a step"):
        last = warm + timed
        take(last + 1, [state.objective.prepare(batch, last) for batch in run.examples.step(last)])
    engine.close()
    topology.leave()
    tokens = config.train.global_batch * config.data.length
    report.check("losses that are not finite", not math.isfinite(float(loss)), 0)
    report.figure("tokens a second", tokens / seconds, "1/s")
    if (peak := peak_flops(report.device)) is not None:
        flops = step_flops(config, vocab, config.train.global_batch)
        report.figure("MFU", (flops.backbone + flops.head) / seconds / peak, "")
    if not cuda:
        return 0
    taken = torch.cuda.max_memory_allocated() - before
    report.figure("peak memory", taken / 1e9, "GB")
    return taken
