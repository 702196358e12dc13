"""The training state, which is what a checkpoint holds: weights, optimizer state, EMA, and the objective's state."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from imdm_dist.checkpoint.format import Piece
from imdm_dist.checkpoint.read import Checkpoint
from imdm_dist.checkpoint.retain import Retention
from imdm_dist.checkpoint.write import Saver, owners
from imdm_dist.config import to_dict
from imdm_dist.config.setting import Weights
from imdm_dist.model import Backbone
from imdm_dist.objectives.objective import Objective, build_objective, objective_of
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.blocks import prepare_blocks
from imdm_dist.training.ema import Ema
from imdm_dist.training.engine import QUANTITIES, ByName, Engine, engine_of
from imdm_dist.training.setup import Run
from imdm_dist.versions import versions


class TrainState:
    """Weights, moments, EMA and the objective's state; data order and draws follow from the step."""

    def __init__(self, engine: Engine, ema: Ema, objective: Objective, run: Run, topology: Topology) -> None:
        self.engine, self.ema, self.objective, self.run, self.topology = engine, ema, objective, run, topology
        settings = run.config.train
        self.retention = Retention(settings.keep_last, settings.keep_every, settings.keep_best)
        self.saver = Saver(run.folder, topology, self.retention)

    def follow(self, done: int) -> None:
        """Bring EMA and objective up to the weights after `done` steps."""
        self.ema.update(self.engine.pieces("weights"), done)
        self.objective.end_step(done, self._gathered)

    def _gathered(self, kind: Weights) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's whole tensor-parallel share, one by one, joined from all data-parallel ranks."""
        pieces = self.ema.shadow if kind == "ema" else self.engine.pieces("weights")
        for name, shape in self.engine.shapes.items():
            own = pieces.get(name)
            if own is not None and not self.engine.divides:
                yield name, own.tensor.view(shape)
                continue
            whole = torch.zeros(shape.numel(), dtype=torch.float32, device=self.topology.device)
            if own is not None:
                whole[own.start : own.start + own.tensor.numel()].copy_(own.tensor)
            yield name, self.topology.sum_over_data(whole).view(shape)

    def save(self, done: int, valid_ppl: float | None, background: bool, moments: bool = True) -> None:
        """Publish the checkpoint of step `done`, or begin to; one without moments is the end, and stays alone."""
        run, data, engine = self.run, self.run.data.train, self.engine
        quantities = QUANTITIES if moments else QUANTITIES[:1]
        pieces: dict[str, ByName] = {q: self._to_write(engine.pieces(q), engine.divides) for q in quantities}
        pieces["ema"] = self._to_write(self.ema.shadow, engine.divides)
        held = self.objective.state() if moments else {}
        teacher = self._to_write({name: Piece(0, tensor) for name, tensor in held.items()}, divided=False)
        pieces["objective"] = {name: Piece(0, piece.tensor.float()) for name, piece in teacher.items()}
        about: dict[str, Any] = {
            "config": to_dict(run.config),
            "model": {"vocab_size": data.vocab_size, "mask_id": data.mask_id, "length": data.length},
            "ranks": {"tensor_parallel": self.topology.tp, "data_parallel": self.topology.dp},
            "updates": engine.updates(),
            "valid_ppl": valid_ppl,
            "shapes": run.shapes | {name: list(own.shape) for name, own in held.items() if name not in run.shapes},
            "provenance": run.provenance,
            "versions": versions(),
        }
        self.saver.save(done, {name: named for name, named in pieces.items() if named}, about, background)
        if not moments and self.topology.first:
            replace(self.retention, last=1).apply(run.folder)

    def _to_write(self, pieces: Mapping[str, Piece], divided: bool) -> ByName:
        """What this rank writes of what it has, nothing that another rank writes too; in its shape where it is whole.

        Args:
            divided: data-parallel ranks have different pieces; else they share the writing.
        """
        topology, cut_of = self.topology, self.engine.backbone.cut_of
        # What is no parameter is an objective's own, and whole on every rank.
        shapes = {name: piece.tensor.shape for name, piece in pieces.items()} | self.engine.shapes
        owner = owners({name: piece.tensor.numel() for name, piece in pieces.items()}, topology.dp)
        return {
            name: replace(piece, tensor=piece.tensor.view(shapes[name]))
            if piece.tensor.numel() == shapes[name].numel()
            else piece
            for name, piece in pieces.items()
            if (cut_of(name) is not None or topology.tp_rank == 0) and (divided or owner[name] == topology.dp_rank)
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Take everything from a checkpoint of this run, written by ranks of any number."""

        def share_of(quantity: str, name: str) -> Tensor:
            return checkpoint.share(quantity, name, self.topology.tp_rank, self.topology.tp)

        self.engine.load(share_of, checkpoint.state["updates"])
        for name, piece in self.ema.shadow.items():
            piece.copy_from(share_of("ema", name))
        held = ((name, share_of("objective", name)) for name in checkpoint.names("objective"))
        self.objective.load_state(checkpoint.step, held)


def build_state(run: Run, model: Backbone, topology: Topology) -> TrainState:
    """Bring all that trains to where the run stands.

    Args:
        model: with the run's initial weights, whole, on the host; it is taken over.
    """
    config = run.config
    teacher = copy.deepcopy(model) if objective_of(config.objective).needs_teacher else None
    if topology.tp > 1:
        from imdm_dist.parallel.tensor_parallel import split  # seconds to import

        for one in filter(None, (model, teacher)):
            split(one, topology)
    model = prepare_blocks(model.to(topology.device), config.engine)
    if teacher is not None:
        teacher.to(topology.device, torch.bfloat16 if config.engine.precision == "bf16" else None)
    objective = build_objective(config, teacher)
    part, make = run.batch_slice, engine_of(config.engine)
    engine = make(model, config.engine, config.optimizer, topology, part.micro_batch, len(part.micro_batches))
    state = TrainState(engine, Ema(engine.pieces("weights"), config.optimizer.ema_decay), objective, run, topology)
    if run.resume is not None:
        state.load(run.resume)
    return state
