"""Plans of what a YAML file describes: one run, or the stages of a chain that train or roll out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imdm_dist.config import Config, load_config, read_yaml
from imdm_dist.planning.plan import CouplingPlan, Hardware, Plan, build_plan, plan_coupling, with_pairs
from imdm_dist.planning.text import coupling_text, duration, plan_text
from imdm_dist.planning.vocabulary_size import vocabulary_size


@dataclass(frozen=True)
class StagePlan:
    """The plan of a stage."""

    name: str
    """Its name in the chain; empty if the file is no chain."""
    plan: Plan | CouplingPlan

    @property
    def seconds(self) -> float:
        """Time on all GPUs."""
        return self.plan.seconds if isinstance(self.plan, CouplingPlan) else self.plan.train_seconds


def plan_stages(
    path: str | None, overrides: Sequence[str], hardware: Hardware, vocab_size: int | None, pairs: int | None
) -> list[StagePlan]:
    """Plan what a file and the settings over it describe.

    Args:
        path: a YAML file of a run or a chain; None plans the defaults.
        vocab_size: the mask included; None takes it from the data settings.
        pairs: of a coupling, in place of coupling.pairs.

    Raises:
        ValueError: the settings are wrong; the message names the stage, if there are several.
    """
    if path is None or "stages" not in read_yaml(path):
        config = with_pairs(load_config(Config, path, overrides), pairs)
        return [StagePlan("", build_plan(config, hardware, vocab_size))]
    from imdm_dist.chain.chain import load_chain

    chain = load_chain(path, overrides)
    plans = []
    for stage in chain.stages:
        config = with_pairs(stage.config, pairs)
        try:
            if stage.kind == "train":
                plans.append(StagePlan(stage.name, build_plan(config, hardware, vocab_size)))
            elif stage.kind == "coupling":
                config = replace(config, model=chain.stage(stage.teacher).config.model)
                known = vocab_size or vocabulary_size(config.data)
                plans.append(StagePlan(stage.name, plan_coupling(config, hardware, known)))
        except ValueError as error:
            raise ValueError(f"stage {stage.name}: {error}") from None
    return plans


def stages_text(plans: Sequence[StagePlan]) -> str:
    """The plans as text, and the time of all of them."""
    parts = []
    for stage in plans:
        if isinstance(stage.plan, CouplingPlan):
            text = coupling_text(stage.plan)
        else:
            text = plan_text(stage.plan, coupling=not stage.name)
        parts.append(f"=== stage {stage.name}\n{text}" if stage.name else text)
    if len(plans) > 1:
        parts.append(f"=== all stages: {duration(sum(stage.seconds for stage in plans))}\n")
    return "\n".join(parts)


def stages_json(plans: Sequence[StagePlan]) -> Any:
    """The plans as JSON-able values: one, or a list of a chain's with their names."""
    contents = []
    for stage in plans:
        content = asdict(stage.plan) if isinstance(stage.plan, CouplingPlan) else stage.plan.to_dict()
        contents.append({"stage": stage.name, **content} if stage.name else content)
    return contents if plans[0].name else contents[0]
