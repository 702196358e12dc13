"""What a stage's result depends on, which names its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imdm_dist.chain.stage import Stage
from imdm_dist.chain.stages import NO_TABLE
from imdm_dist.config import to_dict
from imdm_dist.data import prepare
from imdm_dist.training.setup import unread_by

FORMAT = 1
"""Raised when the code comes to make something else from the same settings."""


def stage_identity(stage: Stage, inputs: Mapping[str, str], may_build: bool = True) -> dict[str, Any]:
    """All that a stage's result depends on: settings, the data's content and digests of the stages it starts from.

    Args:
        inputs: these digests by name.
        may_build: build data that are missing.

    Raises:
        NotPreparedError: the data would have to be built first, and `may_build` is false.
    """
    data = prepare(stage.config.data, may_build)
    return {
        "format": FORMAT,
        "kind": stage.kind,
        "settings": shaping_settings(stage),
        "data": [data.train.fingerprint, data.valid.fingerprint],
        "inputs": dict(inputs),
        **NO_TABLE,
        **stage.own_identity(inputs),
    }


def shaping_settings(stage: Stage) -> dict[str, Any]:
    """The settings that a stage's result depends on; its data count by what they hold, not by what they are called."""
    settings = to_dict(stage.config)
    kept: dict[str, Any] = {}
    for key in stage.shaping:
        section, _, name = key.partition(".")
        kept[key] = settings[section][name] if name else settings[section]
    if "objective" in kept:
        unread = unread_by(stage.config.objective.kind)
        kept["objective"] = {name: value for name, value in kept["objective"].items() if name not in unread}
    return kept
