"""The train loop: one for every objective, read top to bottom."""

from __future__ import annotations

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from imdm_dist.checkpoint.write import lost_without
from imdm_dist.config import to_dict
from imdm_dist.config.schema import Config
from imdm_dist.device import steady_allocator
from imdm_dist.objectives.flops import step_flops
from imdm_dist.objectives.objective import build_objective, objective_of
from imdm_dist.objectives.validation import validation_figures, validation_sums
from imdm_dist.parallel.environment import Place, place_of_this_process
from imdm_dist.parallel.failure import agree, all_fail_together, own_log
from imdm_dist.parallel.replicas import check_replicas
from imdm_dist.parallel.topology import Topology, joined
from imdm_dist.provenance import versions
from imdm_dist.signals import interrupted
from imdm_dist.training.blocks import prepare_blocks
from imdm_dist.training.ema import Ema
from imdm_dist.training.engine.deepspeed import Engine
from imdm_dist.training.feed import Prefetched, seed_dropout
from imdm_dist.training.folder import make_folder, only_writer, prepare_folder
from imdm_dist.training.hang import HangWatch
from imdm_dist.training.heartbeat import Pulse, heartbeat
from imdm_dist.training.learning_rate import learning_rate
from imdm_dist.training.metrics import Meter, MetricsLog, console
from imdm_dist.training.process import own_settings
from imdm_dist.training.setup import Run, set_up, to_resume
from imdm_dist.training.state import TrainState
from imdm_dist.training.stop import StopRequest
from imdm_dist.training.wandb_sync import Mode, mirror_mode

BF16 = torch.bfloat16


def train(config: Config, folder: Path | str, place: Place | None = None, moments: bool = True) -> bool:
    """Train to the last step, from the newest whole checkpoint of `folder` if it has one.

    Every process of a launch calls this with the same arguments.

    Args:
        place: where this process stands in the launch; None reads the launcher's environment.
        moments: keep what more steps would need: AdamW's moments in the last checkpoint, and the ones before it.

    Returns:
        whether the last step is done: not if a signal or the time budget stopped the run after a checkpoint.

    Raises:
        ValueError: settings, data, initial weights or coupling do not fit, and nothing has been written; or a
            checkpoint could not be written; or gradients are not finite any more.
    """
    place = place or place_of_this_process()
    # Denormal numbers, such as squares of small gradients, would make a CPU a hundred times slower.
    with (
        own_settings(config.train.deterministic, place.device),
        interrupted(lambda: "no step was under way, so nothing is lost"),
        joined(config.engine.tensor_parallel, config.model, place) as topology,
    ):
        if topology.device.type == "cuda":
            steady_allocator()
        return _in_good_order(config, Path(folder), topology, moments)


def _in_good_order(config: Config, folder: Path, topology: Topology, moments: bool) -> bool:
    with StopRequest(topology, config.train) as stop, all_fail_together(topology) as watch:
        found = agree(topology, lambda: to_resume(config.train.resume, folder) if topology.first else None)
        resume = topology.from_first(found)
        mirror = agree(topology, lambda: mirror_mode(config.train.wandb) if topology.first else "off")
        run = agree(topology, lambda: set_up(config, folder, topology, resume))
        if run.done >= run.last:
            if topology.first:
                print(f"{folder} is at step {run.done} of {run.last} already", file=sys.stderr)
            return True
        agree(topology, lambda: make_folder(folder))
        if topology.first and topology.world > 1:
            print(f"{folder.name}: {topology}", file=sys.stderr)
        if stop.asked():
            stop.report(folder, run.done, run.last)
            return False
        writer = only_writer(folder) if topology.first else nullcontext()
        pulse = Pulse(run.done, run.last)
        with writer, own_log(topology, folder) as log, heartbeat(pulse, folder, topology):
            hang = HangWatch(pulse, config.train.hang_minutes, topology, watch, log, folder)
            with hang, progress(run, topology) as bar:
                return _train(run, topology, stop, bar, hang, moments, mirror)


def progress(run: Run, topology: Topology) -> tqdm:
    """The progress bar, on rank 0."""
    name = run.folder.name
    first = topology.first
    return tqdm(total=run.last, initial=run.done, desc=name, unit="step", mininterval=1.0, disable=not first)


def build(run: Run, topology: Topology) -> tuple[Engine, TrainState]:
    """Split the model, wrap it in an engine, and bring both to where the run stands."""
    config = run.config
    teacher = copy.deepcopy(run.model) if objective_of(config.objective).needs_teacher else None
    if topology.tp > 1:
        from imdm_dist.parallel.tensor_parallel import split  # seconds to import

        for model in filter(None, (run.model, teacher)):
            split(model, topology)
    model = prepare_blocks(run.model.to(topology.device), config.engine)
    if teacher is not None:
        teacher.to(topology.device, BF16 if config.engine.precision == "bf16" else None)
    objective = build_objective(config, teacher)
    cut = run.cut
    engine = Engine(model, config.engine, config.optimizer, topology, cut.micro_batch, len(cut.pieces))
    state = TrainState(engine, Ema(engine.fragments("weights"), config.optimizer.ema_decay), objective, run)
    if run.resume is not None:
        state.load(run.resume)
    return engine, state


def _train(
    run: Run, topology: Topology, stop: StopRequest, bar: tqdm, hang: HangWatch, moments: bool, mirror: Mode
) -> bool:
    config, folder, settings, pulse = run.config, run.folder, run.config.train, hang.pulse
    about = {"config": to_dict(config), "provenance": run.provenance, "versions": versions()}
    if topology.first:
        prepare_folder(run, about)
    topology.barrier()
    engine, state = build(run, topology)
    hang.state = state
    objective = state.objective
    log = MetricsLog(folder, run.done, mirror, about) if topology.first else None
    flops = step_flops(config, run.data.train.vocab_size, run.cut.micro_batch)
    init = "" if run.done else config.inputs.init
    meter = Meter(settings.global_batch, run.data.train.length, topology, flops, settings.max_skipped, init)

    def record(line: dict[str, Any]) -> None:
        if log is not None:
            log.write(line)

    done, finished = run.done, False
    stop.lost = lambda: lost_without(folder, run.done, pulse.trained)
    steps = Prefetched(run.examples, objective, run.done, run.last)
    for done, batches in enumerate(steps, start=run.done + 1):
        # 1. Gradients: every micro-batch adds its share of the global batch's loss.
        loss = torch.zeros((), device=topology.device)
        for batch in batches:
            pulse.at("gradients")
            seed_dropout(batch)
            prepared = batch.to(topology.device)
            loss += engine.accumulate(lambda m, b=prepared: objective.loss(m, b))  # type: ignore[misc]
        # 2. The update, then what follows the weights: EMA and the objective's state, such as a teacher.
        pulse.at("update")
        lr = learning_rate(config.optimizer, done - 1, run.last)
        grad_norm = engine.step(lr)
        place = objective.metrics()
        state.follow(done)
        # 3. The record. Reading the loss waits for the device, so it is done once an interval.
        pulse.at("record")
        meter.add(done, loss, grad_norm, steps.waited)
        bar.update()
        finished = done == run.last
        stopping, save_failed = stop.agreed(state.saver.failed)
        if done % settings.log_every == 0 or finished or stopping:
            line = {"step": done, **meter.lap(), "lr": lr, **place}
            record(line)
            pulse.record(line["loss"], line["tokens_per_s"])
            bar.set_postfix_str(console(line))
            meter.check(finished)
        valid_ppl = None
        if settings.valid_every and (done % settings.valid_every == 0 or finished):
            pulse.at("validating")
            with meter.paused():
                valid = run.data.valid
                sums = validation_sums(
                    engine.backbone, valid, settings.valid_rows, rank=topology.dp_rank, ranks=topology.dp
                )
                found = validation_figures(topology.sum_over_data(sums), valid).all.to_dict()
            valid_ppl = found["ppl"]
            names = {"ppl": "valid_ppl_raw", "nats": "valid_nelbo_raw"}
            record({"step": done} | {names[n] + end: found[n + end] for n in names for end in ("", "_se")})
        if settings.check_replicas_every and done % settings.check_replicas_every == 0:
            check_replicas(topology, dict(engine.backbone.named_parameters()), done)
        if done % settings.save_every == 0 or finished or stopping or save_failed:
            if save_failed:
                state.saver.abandon()
            now = finished or stopping or save_failed
            pulse.at("saving")
            pulse.saved = done
            with meter.paused() as stall:
                background = settings.async_save and not now
                state.save(done, valid_ppl, background, moments=moments or not finished)
            meter.save_stall = stall.seconds
        pulse.end_step(done)
        if stopping:
            break
    pulse.at("closing")
    state.saver.wait()
    if log is not None:
        log.close()
    engine.close()
    topology.barrier()
    pulse.end = "finished" if finished else "stopped"
    if not finished:
        stop.report(folder, done, run.last)
    return finished
