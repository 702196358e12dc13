"""What each kind of stage does, in one process or in every process of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imdm_dist.chain.chain import Chain, Stage
from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.config import InputsConfig
from imdm_dist.coupling import Coupling
from imdm_dist.data import prepare
from imdm_dist.device import default_device
from imdm_dist.signals import EXIT_STOPPED, leaving_at_signals
from imdm_dist.training.loop import train

SEVERAL = ("train", "coupling")
"""Kinds whose work is shared by all processes of a launch; the others are done by one."""


def work(chain: Chain, stage: Stage, folders: Mapping[str, Path], workers: int | None = None) -> None:
    """Do a stage, or this process's part in it, in its folder; what was begun there goes on.

    Args:
        folders: of the stage and of those it starts from, by name.
        workers: rollout processes of a coupling on this machine, where this is the only process.

    Raises:
        ValueError, OSError: the stage failed.
        SystemExit: a signal or the time budget stopped it in good order (`EXIT_STOPPED`).
    """
    folder, config = folders[stage.name], stage.config
    if stage.kind == "train":
        inputs = InputsConfig(
            init=str(folders[stage.init]) if stage.init else "",
            init_weights=config.inputs.init_weights,
            coupling=str(folders[stage.coupling]) if stage.coupling else "",
        )
        if not train(replace(config, inputs=inputs), folder, moments=False):
            raise SystemExit(EXIT_STOPPED)
        return
    with leaving_at_signals():
        if stage.kind == "coupling":
            generate_coupling(config, folders[stage.teacher], folder, workers)
        elif stage.kind == "evaluator":
            from imdm_dist.evaluation.causal_lm import train_evaluator  # seconds to import

            data = prepare(config.data)
            autocast = config.engine.precision != "fp32"
            train_evaluator(config.evaluator, data.train, data.valid, folder, default_device(), autocast)
        elif stage.kind == "evaluation":
            from imdm_dist.evaluation.evaluate import Candidate, evaluate

            candidates = {
                name: Candidate(folders[model], _compared_with(chain, stage, model, folders))
                for name, model in stage.models.items()
            }
            evaluator = folders.get(stage.evaluator, Path(stage.evaluator)) if stage.evaluator else None
            evaluate(config, prepare(config.data), candidates, evaluator, folder)


def _compared_with(chain: Chain, stage: Stage, model: str, folders: Mapping[str, Path]) -> NDArray[Any] | None:
    """The results of the pairs that a model of a table learned, or of those that all are compared with."""
    coupling = chain.stage(model).coupling or stage.coupling
    return Coupling.open(folders[coupling]).result_PL if coupling else None
