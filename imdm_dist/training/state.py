"""All that changes while a run trains: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from imdm_dist.checkpoint.format import Checkpoint, Piece
from imdm_dist.checkpoint.write import Saver, owners, retire
from imdm_dist.config import to_dict
from imdm_dist.config.names import Weights
from imdm_dist.objectives.objective import Objective
from imdm_dist.parallel.cuts import cut_of, share
from imdm_dist.provenance import versions
from imdm_dist.training.ema import Ema
from imdm_dist.training.engine.deepspeed import QUANTITIES, Engine, Fragments
from imdm_dist.training.setup import Run


class TrainState:
    """Weights, moments, EMA and the objective's state; data order and draws follow from the step."""

    def __init__(self, engine: Engine, ema: Ema, objective: Objective, run: Run) -> None:
        self.engine, self.ema, self.objective, self.run = engine, ema, objective, run
        self.topology = engine.topology
        self.saver = Saver(run.folder, self.topology, run.config.train)

    def follow(self, done: int) -> None:
        """Bring EMA and objective up to the weights after `done` steps."""
        self.ema.update(self.engine.fragments("weights"), done)
        self.objective.end_step(done, self._gathered)

    def _gathered(self, kind: Weights) -> Iterator[tuple[str, Tensor]]:
        return self.engine.gather(self.ema.shadow if kind == "ema" else self.engine.fragments("weights"))

    def save(self, done: int, valid_ppl: float | None, background: bool, moments: bool = True) -> None:
        """Publish the checkpoint of step `done`, or begin to; one without moments is the end, and stays alone."""
        run, model = self.run, self.run.model
        split = self.engine.config.zero_stage > 0
        pieces: dict[str, dict[str, Piece]] = {}
        for quantity in QUANTITIES if moments else QUANTITIES[:1]:
            pieces[quantity] = self._pieces(self.engine.fragments(quantity), split)
        pieces["ema"] = self._pieces(self.ema.shadow, split)
        held = self.objective.state() if moments else {}
        teacher = self._mine({name: Piece(0, tensor) for name, tensor in held.items()}, split=False)
        pieces["objective"] = {name: Piece(0, piece.tensor.float()) for name, piece in teacher.items()}
        about: dict[str, Any] = {
            "config": to_dict(run.config),
            "model": {"vocab_size": model.vocab_size, "mask_id": model.mask_id, "length": run.data.train.length},
            "ranks": {"tensor_parallel": self.topology.tp, "data_parallel": self.topology.dp},
            "updates": self.engine.optimizer_steps(),
            "valid_ppl": valid_ppl,
            "shapes": run.shapes,
            "provenance": run.provenance,
            "versions": versions(),
        }
        self.saver.save(done, {name: named for name, named in pieces.items() if named}, about, background)
        if not moments and self.topology.first:
            retire(run.folder, replace(run.config.train, keep_last=1))

    def _pieces(self, fragments: Fragments, split: bool) -> dict[str, Piece]:
        """Pieces of what the optimizer owns; in their shape where they are whole."""
        pieces = {}
        for name, piece in fragments.items():
            shape = self.engine.shapes[name]
            whole = piece.tensor.numel() == shape.numel()
            pieces[name] = Piece(piece.start, piece.tensor.view(shape) if whole else piece.tensor)
        return self._mine(pieces, split)

    def _mine(self, pieces: dict[str, Piece], split: bool) -> dict[str, Piece]:
        """What this rank writes: nothing that another rank has too and writes."""
        topology = self.topology
        owner = owners({name: piece.tensor.numel() for name, piece in pieces.items()}, topology.dp)
        return {
            name: piece
            for name, piece in pieces.items()
            if (cut_of(name) is not None or topology.tp_rank == 0) and (split or owner[name] == topology.dp_rank)
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Take everything from a checkpoint of this run, written by ranks of any number."""
        run, objective, engine = self.run, self.objective, self.engine
        batch = objective.prepare(run.examples.step(run.done)[0], run.done).to(self.topology.device)
        engine.prepare_load(lambda model: objective.loss(model, batch), len(run.cut.pieces))

        def share_of(quantity: str, name: str) -> Tensor:
            return share(checkpoint.full(quantity, name), cut_of(name), self.topology.tp_rank, self.topology.tp)

        engine.load(share_of, checkpoint.state["updates"])
        with torch.no_grad():
            for name, piece in self.ema.shadow.items():
                whole = share_of("ema", name).reshape(-1)
                piece.tensor.copy_(whole[piece.start : piece.start + piece.tensor.numel()])
        objective.load_state(run.done, ((name, share_of("objective", name)) for name in checkpoint.names("objective")))
