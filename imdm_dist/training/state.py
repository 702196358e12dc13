"""All that changes while a run trains: what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from imdm_dist.config import to_dict
from imdm_dist.objectives.objective import Objective
from imdm_dist.provenance import versions
from imdm_dist.training.checkpoint import load_tensors, save_checkpoint
from imdm_dist.training.ema import Ema
from imdm_dist.training.engine import MOMENTS, Engine
from imdm_dist.training.setup import Run


class TrainState:
    """Weights, moments, EMA, the objective's state and generators; data order and draws follow from the step."""

    def __init__(self, engine: Engine, ema: Ema, objective: Objective, run: Run) -> None:
        self.engine, self.ema, self.objective, self.run = engine, ema, objective, run

    def follow(self, done: int) -> None:
        """Bring EMA and objective up to the weights after `done` steps."""
        weights = self.engine.weights()
        self.ema.update(weights, done)
        self.objective.end_step(done, lambda kind: self.ema.shadow if kind == "ema" else weights)

    def save(self, done: int) -> None:
        """Publish the checkpoint of step `done`."""
        run, model = self.run, self.run.model
        tensors = {"weights": self.engine.weights(), "ema": self.ema.shadow, **self.engine.moments()}
        tensors |= {"objective": self.objective.state(), "rng": rng_state()}
        about = {
            "config": to_dict(run.config),
            "model": {"vocab_size": model.vocab_size, "mask_id": model.mask_id, "length": run.data.train.length},
            "provenance": run.provenance,
            "versions": versions(),
        }
        save_checkpoint(run.folder, done, tensors, about, run.config.train.keep_last)

    def load(self, path: Path) -> None:
        """Take everything from a checkpoint of this run."""
        run, objective = self.run, self.objective
        batch = run.examples.step(run.done)[0]
        moments = {kind: load_tensors(path, kind) for kind in MOMENTS}
        objective.load_state(run.done, load_tensors(path, "objective"))
        weights = load_tensors(path, "weights")
        self.engine.load(weights, moments, run.done, lambda m: objective.loss(m, batch), len(run.cut.pieces))
        self.ema.load(load_tensors(path, "ema"))
        load_rng(load_tensors(path, "rng"))


def rng_state() -> dict[str, Tensor]:
    """State of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_rng(state: dict[str, Tensor]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
