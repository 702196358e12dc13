"""The train loop: one for every objective, read top to bottom."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from imdm_dist.config import to_dict
from imdm_dist.config.schema import Config, OptimizerConfig
from imdm_dist.device import default_device
from imdm_dist.files import remove_leftovers, write_json
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.examples import CouplingExamples, DataExamples
from imdm_dist.objectives.objective import build_objective
from imdm_dist.objectives.validation import validation_perplexity
from imdm_dist.provenance import versions
from imdm_dist.training.checkpoint import TOKENIZER
from imdm_dist.training.ema import Ema
from imdm_dist.training.engine import Engine
from imdm_dist.training.metrics import Meter, MetricsLog
from imdm_dist.training.setup import Run, set_up
from imdm_dist.training.state import TrainState


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Rate of optimizer step `step` (0 is the first): a linear warm-up, then constant."""
    return config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps))


def prefetched(examples: DataExamples | CouplingExamples, first: int, last: int) -> Iterator[list[MaskedBatch]]:
    """Micro-batches of steps first to last - 1, each step's made while the one before it runs."""
    with ThreadPoolExecutor(1) as maker:
        ahead = maker.submit(examples.step, first)
        for step in range(first, last):
            batches = ahead.result()
            if step + 1 < last:
                ahead = maker.submit(examples.step, step + 1)
            yield batches


def train(config: Config, folder: Path | str) -> None:
    """Train to the last step, from the newest whole checkpoint of `folder` if it has one.

    Raises:
        ValueError: settings, data, initial weights or coupling do not fit, and nothing has been written; or the
            loss is not finite any more.
    """
    # Squares of small gradients are denormal numbers, on which a CPU is a hundred times slower.
    torch.set_flush_denormal(True)
    folder = Path(folder)
    run = set_up(config, folder)
    if run.done >= run.last:
        print(f"{folder} is at step {run.done} of {run.last} already", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        _train(run)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a run folder; the lock goes with the process.

    Raises:
        ValueError: another process trains in it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another process trains in {folder}: wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


def _train(run: Run) -> None:
    config, folder = run.config, run.folder
    remove_leftovers(folder)
    about = {"config": to_dict(config), "provenance": run.provenance, "versions": versions()}
    write_json(folder / "config.json", about)
    if run.data.tokenizer is not None:
        run.data.tokenizer.save(folder / TOKENIZER)

    device = default_device()
    model = run.model.to(device)
    objective = build_objective(config.objective, model, config.engine.loss_chunk_rows)
    engine = Engine(model, config.engine, config.optimizer, run.cut.micro_batch, len(run.cut.pieces))
    state = TrainState(engine, Ema(engine.weights(), config.optimizer.ema_decay), objective, run)
    if run.resume is not None:
        state.load(run.resume)

    log = MetricsLog(folder, run.done, config.train.wandb, about)
    meter = Meter(run.cut.count * run.data.train.length, device)
    bar = tqdm(total=run.last, initial=run.done, desc=folder.name, unit="step", mininterval=1.0)
    for done, batches in enumerate(prefetched(run.examples, run.done, run.last), start=run.done + 1):
        # 1. Gradients: every micro-batch adds its share of the global batch's loss.
        for batch in batches:
            meter.loss += engine.accumulate(lambda m, b=batch: objective.loss(m, b))  # type: ignore[misc]
        # 2. The update, then what follows the weights: EMA and, at a round's end, the SDTT teacher.
        lr = learning_rate(config.optimizer, done - 1)
        grad_norm = engine.step(lr)
        place = objective.metrics()
        state.follow(done)
        # 3. The record. Reading the loss waits for the device, so it is done once an interval.
        bar.update()
        meter.steps += 1
        if done % config.train.log_every == 0 or done == run.last:
            line = {"step": done, **meter.lap(), "grad_norm": float(grad_norm), "lr": lr, **place}
            log.write(line)
            bar.set_postfix_str(f"loss {line['loss']:.4f}, {line['tokens_per_s'] / 1000:.1f}k tok/s")
        if config.train.valid_every and (done % config.train.valid_every == 0 or done == run.last):
            started = time.monotonic()
            valid_ppl = validation_perplexity(model, run.data.valid, config.train.valid_rows)
            log.write({"step": done, "valid_ppl_raw": valid_ppl})
            meter.pause(time.monotonic() - started)
        if done % config.train.save_every == 0 or done == run.last:
            started = time.monotonic()
            meter.check()
            state.save(done)
            meter.pause(time.monotonic() - started)
    bar.close()
    log.close()
    engine.close()
