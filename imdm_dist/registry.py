"""Registries: the kinds of things that there are, by the name that a setting gives them.

A new kind is one file and one line here; no other file names it. In place of a name a setting may give
`module:Class`, the place of somebody's own file, so that it works in every process of a job with no line here.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any


class Registry:
    """Things of one sort by name.

    Args:
        setting: the setting that names one, for messages: objective.kind.
        places: `module:Class` by name.
        base: `module:Class` that all extend; empty: they are functions.
    """

    def __init__(self, setting: str, places: Mapping[str, str], base: str = "") -> None:
        self.setting, self.places, self.base = setting, dict(places), base

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.places)

    def place(self, name: str) -> tuple[str, str]:
        """Module and attribute that `name` stands for; nothing is imported.

        Raises:
            ValueError: it stands for nothing.
        """
        module, colon, attribute = self.places.get(name, name).partition(":")
        if not (module and colon and attribute):
            near = difflib.get_close_matches(name, self.names, 1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names)}, or a module:Class"
            raise ValueError(f"{self.setting} is {name!r}: {hint}")
        return module, attribute

    def get(self, name: str) -> Any:
        """What `name` stands for.

        Raises:
            ValueError: it stands for nothing, its module lacks it, or it is something else than what is here.
        """
        module, attribute = self.place(name)
        if name not in self.places and not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())  # as `python` does by itself, and an installed command does not
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.setting} is {name!r}, which cannot be imported ({error}): correct it, or put its folder on "
                "PYTHONPATH (the folder where you are is searched too)"
            ) from None
        if name not in self.places:
            self._check(name, found)
        return found

    def _check(self, name: str, found: Any) -> None:
        """Check that somebody's own thing is of the right sort."""
        if self.base:
            module, _, attribute = self.base.partition(":")
            is_one = isinstance(found, type) and issubclass(found, getattr(importlib.import_module(module), attribute))
            wanted = f"subclass of {module}.{attribute}"
        else:
            is_one, wanted = inspect.isfunction(found), "function"
        if not is_one:
            raise ValueError(f"{self.setting} is {name!r}, which is no {wanted}: name one (see docs/extending.md)")


BACKBONES = Registry(
    "model.family",
    {"dit": "imdm_dist.model.dit:DiT"},
    base="imdm_dist.model.backbone:Backbone",
)
OBJECTIVES = Registry(
    "objective.kind",
    {
        "nelbo": "imdm_dist.objectives.nelbo:Nelbo",
        "sdtt": "imdm_dist.objectives.sdtt:Sdtt",
        "redi": "imdm_dist.objectives.redi:Redi",
    },
    base="imdm_dist.objectives.objective:Objective",
)
MASKS = Registry(
    "model.mask.kind",
    {
        "single": "imdm_dist.model.masks.single:SingleMask",
        "infinite": "imdm_dist.model.masks.infinite:InfiniteMask",
        "finite": "imdm_dist.model.masks.finite:FiniteMask",
    },
    base="imdm_dist.model.mask_embedding:MaskEmbedding",
)
NOISE_LAWS = Registry(
    "model.mask.law",
    {"uniform": "imdm_dist.draws.laws:uniform_noise", "gaussian": "imdm_dist.draws.laws:gaussian_noise"},
)
SOURCES = Registry(
    "coupling.source or evaluation.source",
    {"counter": "imdm_dist.diffusion.draw_source:CounterSource"},
    base="imdm_dist.diffusion.draw_source:DrawSource",
)
METRICS = Registry(
    "evaluation.metrics",
    {
        "gen_ppl": "imdm_dist.evaluation.metrics.gen_ppl:GenPpl",
        "entropy": "imdm_dist.evaluation.metrics.entropy:Entropy",
        "distinct": "imdm_dist.evaluation.metrics.distinct:Distinct",
        "copied": "imdm_dist.evaluation.metrics.copied:Copied",
        "valid_ppl": "imdm_dist.evaluation.metrics.valid_ppl:ValidPpl",
        "trigram": "imdm_dist.evaluation.metrics.trigram:Trigram",
        "evaluator": "imdm_dist.evaluation.metrics.evaluator:Evaluator",
    },
    base="imdm_dist.evaluation.metric:Metric",
)
STAGES = Registry(
    "a stage's kind",
    {
        "train": "imdm_dist.chain.stages.train:Train",
        "given": "imdm_dist.chain.stages.given:Given",
        "coupling": "imdm_dist.chain.stages.coupling:Coupling",
        "evaluator": "imdm_dist.chain.stages.evaluator:Evaluator",
        "evaluation": "imdm_dist.chain.stages.evaluation:Evaluation",
    },
    base="imdm_dist.chain.stage:Stage",
)
ENGINES = Registry(
    "engine.kind",
    {
        "deepspeed": "imdm_dist.training.engine.deepspeed:DeepSpeedEngine",
        "plain": "imdm_dist.training.engine.plain:PlainEngine",
    },
    base="imdm_dist.training.engine.engine:Engine",
)
