"""Identity of a stage: all that its result depends on. Its hash names the stage's folder (content-addressed)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imdm_dist.chain.stage import Stage
from imdm_dist.chain.stages import NO_TABLE
from imdm_dist.config import shaping_settings
from imdm_dist.data import prepare

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
        "settings": shaping_settings(stage.config, *stage.shaping),
        "data": [data.train.fingerprint, data.valid.fingerprint],
        "inputs": dict(inputs),
        **NO_TABLE,
        **stage.own_identity(inputs),
    }
