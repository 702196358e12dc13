"""Plans (parameters, memory, time) of what a YAML file describes: one run, or the stages of a chain that take long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from imdm_dist.config import Config, load_config, read_yaml
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.plan import CouplingPlan, Plan, build_plan, with_pairs
from imdm_dist.planning.plan_text import coupling_text, duration, plan_text

Plans = Mapping[str, Plan | CouplingPlan]
"""Plans by the name of the stage in its chain; empty if the file is no chain."""


def plan_stages(
    path: str | None, overrides: Sequence[str], hardware: Hardware, vocab_size: int | None, pairs: int | None
) -> Plans:
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
        return {"": build_plan(config, hardware, vocab_size)}
    from imdm_dist.chain.chain import load_chain

    chain = load_chain(path, overrides)
    plans = {}
    for stage in chain.stages:
        try:
            plan = replace(stage, config=with_pairs(stage.config, pairs)).plan(chain.by_name, hardware, vocab_size)
        except ValueError as error:
            raise ValueError(f"stage {stage.name}: {error}") from None
        if plan is not None:
            plans[stage.name] = plan
    return plans


def stages_text(plans: Plans) -> str:
    """The plans as text, and the time of all of them."""
    parts, seconds = [], 0.0
    for name, plan in plans.items():
        if isinstance(plan, CouplingPlan):
            text, seconds = coupling_text(plan), seconds + plan.seconds
        else:
            text, seconds = plan_text(plan, coupling=not name), seconds + plan.train_seconds
        parts.append(f"=== stage {name}\n{text}" if name else text)
    if len(plans) > 1:
        parts.append(f"=== all stages: {duration(seconds)}\n")
    return "\n".join(parts)


def stages_json(plans: Plans) -> Any:
    """The plans as JSON-able values: one, or a list of a chain's with their names."""
    contents = {
        name: asdict(plan) if isinstance(plan, CouplingPlan) else plan.to_dict() for name, plan in plans.items()
    }
    return contents[""] if "" in contents else [{"stage": name, **content} for name, content in contents.items()]
