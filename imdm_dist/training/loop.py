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
from imdm_dist.provenance import versions
from imdm_dist.signals import interrupted
from imdm_dist.training.feed import Prefetched, seed_dropout
from imdm_dist.training.folder import make_folder, only_writer, prepare_folder
from imdm_dist.training.hang import HangWatch
from imdm_dist.training.heartbeat import Pulse, heartbeat
from imdm_dist.training.learning_rate import learning_rate
from imdm_dist.training.process import own_settings
from imdm_dist.training.record import Record
from imdm_dist.training.setup import Run, set_up, to_resume
from imdm_dist.training.state import TrainState, build
from imdm_dist.training.stop import StopRequest
from imdm_dist.training.wandb_sync import Mode, mirror_mode


@dataclass(frozen=True)
class Launch:
    """What a run has around it in this process."""

    topology: Topology
    stop: StopRequest
    pulse: Pulse
    hang: HangWatch
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
        own_settings(config.train.deterministic, process.device),
        interrupted(lambda: "no step was under way, so nothing is lost"),
        joined(config.engine.tensor_parallel, config.model, process) as topology,
    ):
        if topology.device.type == "cuda":
            steady_allocator()
        return _in_good_order(config, Path(folder), topology, moments)


def _in_good_order(config: Config, folder: Path, topology: Topology, moments: bool) -> bool:
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
            stop.report(folder, run.done, run.last)
            return False
        writer = only_writer(folder) if topology.first else nullcontext()
        pulse = Pulse(run.done, run.last)
        with (
            writer,
            rank_log(topology, folder) as log,
            heartbeat(pulse, folder, topology),
            HangWatch(pulse, config.train.hang_minutes, topology, watch, log, folder) as hang,
        ):
            return _train(run, model, Launch(topology, stop, pulse, hang, mirror))


def _train(run: Run, model: Backbone, launch: Launch) -> bool:
    """Build what trains, take the steps that are left, and close; return whether the last one is done."""
    topology, pulse, stop = launch.topology, launch.pulse, launch.stop
    about = {"config": to_dict(run.config), "provenance": run.provenance, "versions": versions()}
    if topology.first:
        prepare_folder(run, about)
    topology.barrier()
    state = build(run, model, topology)
    stop.lost = lambda: lost_without(run.folder, run.done, pulse.trained)
    with Record(run, topology, pulse, launch.mirror, about) as record:
        done = _take_steps(run, state, record, launch)
        pulse.at("closing")
        state.saver.wait()
        record.close()
    state.engine.close()
    topology.barrier()
    finished = done == run.last
    pulse.end = "finished" if finished else "stopped"
    if not finished:
        stop.report(run.folder, done, run.last)
    return finished


def _take_steps(run: Run, state: TrainState, record: Record, launch: Launch) -> int:
    """Train from where the state is until the last step, or until somebody asks to stop; return the steps done."""
    topology, pulse, settings = launch.topology, launch.pulse, run.config.train
    engine, objective, done = state.engine, state.objective, run.done
    feed = Prefetched(run.examples, objective, run.done, run.last)
    for done, batches in enumerate(feed, start=run.done + 1):
        # 1. Gradients: every micro-batch adds its share of the global batch's loss.
        loss = torch.zeros((), device=topology.device)
        for batch in batches:
            pulse.at("gradients")
            seed_dropout(batch)
            prepared = batch.to(topology.device)
            loss += engine.accumulate(lambda m, b=prepared: objective.loss(m, b))  # type: ignore[misc]
        # 2. The update, then what follows the weights: EMA and the objective's state, such as a teacher.
        pulse.at("update")
        rate = learning_rate(run.config.optimizer, done - 1, run.last)
        grad_norm = engine.step(rate)
        place = objective.metrics()
        state.follow(done)
        # 3. The record. Reading the loss waits for the device, so it is done once an interval.
        pulse.at("record")
        record.step(done, loss, grad_norm, feed.waited)
        finished = done == run.last
        stopping, save_failed = launch.stop.agreed(state.saver.failed)
        if done % settings.log_every == 0 or finished or stopping:
            record.interval(done, {"lr": rate, **place}, finished)
        # 4. Now and then: the loss on held-out rows, and whether what should be equal on several ranks is.
        valid_ppl = None
        if settings.valid_every and (done % settings.valid_every == 0 or finished):
            pulse.at("validating")
            with record.paused():
                valid_ppl = record.validation(done, validate(run, engine.backbone, topology))
        if settings.check_replicas_every and done % settings.check_replicas_every == 0:
            check_replicas(topology, dict(engine.backbone.named_parameters()), done)
        # 5. The checkpoint; one that could not be written is tried again at once.
        if done % settings.save_every == 0 or finished or stopping or save_failed:
            if save_failed:
                state.saver.abandon()
            pulse.at("saving")
            pulse.saved = done
            with record.paused(saving=True):
                background = settings.async_save and not (finished or stopping or save_failed)
                state.save(done, valid_ppl, background, moments=run.moments or not finished)
        pulse.end_step(done)
        if stopping:
            break
    return done


def validate(run: Run, model: Backbone, topology: Topology) -> Perplexity:
    """The NELBO of the validation rows under the raw weights."""
    rows = run.data.valid
    sums = validation_sums(model, rows, run.config.train.valid_rows, rank=topology.dp_rank, ranks=topology.dp)
    return validation_figures(topology.sum_over_data(sums), rows).all
