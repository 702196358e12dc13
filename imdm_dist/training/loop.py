"""The train loop: one for every objective and engine, read top to bottom."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from imdm_dist.checkpoint.retain import lost_without
from imdm_dist.config import to_dict
from imdm_dist.config.schema import Config
from imdm_dist.device import steady_allocator
from imdm_dist.model import Backbone
from imdm_dist.objectives.validation import validation_figures, validation_sums
from imdm_dist.parallel.environment import LaunchedProcess, this_process
from imdm_dist.parallel.failure import agree, all_fail_together, rank_log
from imdm_dist.parallel.replicas import check_replicas
from imdm_dist.parallel.topology import Topology, joined
from imdm_dist.perplexity import Perplexity
from imdm_dist.signals import interrupted
from imdm_dist.training.folder import make_folder, only_writer, prepare_folder
from imdm_dist.training.heartbeat import LoopStatus, heartbeat
from imdm_dist.training.learning_rate import learning_rate
from imdm_dist.training.logger import Logger
from imdm_dist.training.prefetch import Prefetched, seed_dropout
from imdm_dist.training.process import process_settings
from imdm_dist.training.setup import Run, set_up, to_resume
from imdm_dist.training.state import TrainState, build_state
from imdm_dist.training.stop import StopRequest
from imdm_dist.training.wandb_sync import Mode, mirror_mode
from imdm_dist.training.watchdog import Watchdog
from imdm_dist.versions import versions


@dataclass(frozen=True)
class RunContext:
    """What the train loop uses beside the run: ranks, stop request, status, and the mirror of its metrics."""

    topology: Topology
    stop: StopRequest
    status: LoopStatus
    mirror: Mode


def train(config: Config, folder: Path | str, process: LaunchedProcess | None = None, moments: bool = True) -> bool:
    """Train to the last step, from the newest whole checkpoint of `folder` if it has one.

    Every process of a launch calls this with the same arguments.

    Args:
        process: where this process stands in the launch; None reads the launcher's environment.
        moments: keep what more steps would need, see `Run.moments`.

    Returns:
        whether the last step is done: not if a signal or the time budget stopped the run after a checkpoint.

    Raises:
        ValueError: settings, data, initial weights or coupling do not fit, and nothing has been written; or a
            checkpoint could not be written; or gradients are not finite any more.
    """
    process = process or this_process()
    # Denormal numbers, such as squares of small gradients, would make a CPU a hundred times slower.
    with (
        process_settings(config.train.deterministic, process.device),
        interrupted(lambda: "no step was under way, so nothing is lost"),
        joined(config.engine.tensor_parallel, config.model, process) as topology,
    ):
        if topology.device.type == "cuda":
            steady_allocator()
        return _prepare_and_train(config, Path(folder), topology, moments)


def _prepare_and_train(config: Config, folder: Path, topology: Topology, moments: bool) -> bool:
    with StopRequest(topology, config.train) as stop, all_fail_together(topology) as watch:
        found = agree(topology, lambda: to_resume(config.train.resume, folder) if topology.first else None)
        resume = topology.from_first(found)
        mirror = agree(topology, lambda: mirror_mode(config.train.wandb) if topology.first else "off")
        run, model = agree(topology, lambda: set_up(config, folder, topology, resume, moments))
        if run.done >= run.last:
            if topology.first:
                print(f"{folder} is at step {run.done} of {run.last} already", file=sys.stderr)
            return True
        agree(topology, lambda: make_folder(folder))
        if topology.first and topology.world > 1:
            print(f"{folder.name}: {topology}", file=sys.stderr)
        if stop.asked():
            stop.print_stopped(folder, run.done, run.last)
            return False
        writer = only_writer(folder) if topology.first else nullcontext()
        status, minutes = LoopStatus(run.done, run.last), config.train.hang_minutes
        with (
            writer,
            rank_log(topology, folder) as log,
            heartbeat(status, folder, topology),
            Watchdog(status, minutes, topology, watch, log, folder) if minutes else nullcontext(),
        ):
            return _train(run, model, RunContext(topology, stop, status, mirror))


def _train(run: Run, model: Backbone, context: RunContext) -> bool:
    """Build what trains, take the steps that are left, and close; return whether the last one is done."""
    topology, status, stop = context.topology, context.status, context.stop
    about = {"config": to_dict(run.config), "provenance": run.provenance, "versions": versions()}
    if topology.first:
        prepare_folder(run, about)
    topology.barrier()
    state = build_state(run, model, topology)
    stop.lost = lambda: lost_without(run.folder, run.done, status.trained)
    with Logger(run, topology, status, context.mirror, about) as logger:
        done = _take_steps(run, state, logger, context)
        status.at("closing")
        state.saver.wait()
        logger.close()
    state.engine.close()
    topology.barrier()
    finished = done == run.last
    status.end = "finished" if finished else "stopped"
    if not finished:
        stop.print_stopped(run.folder, done, run.last)
    return finished


def _take_steps(run: Run, state: TrainState, logger: Logger, context: RunContext) -> int:
    """Train from where the state is until the last step, or until somebody asks to stop; return the steps done."""
    topology, status, settings = context.topology, context.status, run.config.train
    engine, objective, done = state.engine, state.objective, run.done
    prefetched = Prefetched(run.examples, objective, run.done, run.last)
    for done, batches in enumerate(prefetched, start=run.done + 1):
        # 1. Gradients: every micro-batch adds its share of the global batch's loss.
        loss = torch.zeros((), device=topology.device)
        for batch in batches:
            status.at("gradients")
            seed_dropout(batch)
            prepared = batch.to(topology.device)
            loss += engine.accumulate(lambda m, b=prepared: objective.loss(m, b))  # type: ignore[misc]
        # 2. The update, then what follows the weights: EMA and the objective's state, such as a teacher.
        status.at("update")
        rate = learning_rate(run.config.optimizer, done - 1, run.last)
        grad_norm = engine.step(rate)
        more = objective.metrics()
        state.follow(done)
        # 3. The log. Reading the loss waits for the device, so it is done once an interval.
        status.at("record")
        logger.step(done, loss, grad_norm, prefetched.waited)
        finished = done == run.last
        stopping, save_failed = context.stop.agreed(state.saver.failed)
        if done % settings.log_every == 0 or finished or stopping:
            logger.interval(done, {"lr": rate, **more}, finished)
        # 4. Now and then: the loss on held-out rows, and whether what should be equal on several ranks is.
        valid_ppl = None
        if settings.valid_every and (done % settings.valid_every == 0 or finished):
            status.at("validating")
            with logger.paused():
                valid_ppl = logger.validation(done, validate(run, engine.backbone, topology))
        if settings.check_replicas_every and done % settings.check_replicas_every == 0:
            check_replicas(topology, dict(engine.backbone.named_parameters()), done)
        # 5. The checkpoint; one that could not be written is tried again at once.
        if done % settings.save_every == 0 or finished or stopping or save_failed:
            if save_failed:
                state.saver.abandon()
            status.at("saving")
            with logger.paused(saving=True):
                background = settings.async_save and not (finished or stopping or save_failed)
                state.save(done, valid_ppl, background, moments=run.moments or not finished)
        status.end_step(done)
        if stopping:
            break
    return done


def validate(run: Run, model: Backbone, topology: Topology) -> Perplexity:
    """The NELBO of the validation rows under the raw weights."""
    rows = run.data.valid
    sums = validation_sums(model, rows, run.config.train.valid_rows, rank=topology.dp_rank, ranks=topology.dp)
    return validation_figures(topology.sum_over_data(sums), rows).all
