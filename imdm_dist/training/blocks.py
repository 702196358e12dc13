"""How a backbone runs in training: whose LayerNorm, blocks recomputed in backward, compiled, or as they are."""

from __future__ import annotations

import functools

from torch.utils.checkpoint import checkpoint

from imdm_dist.config.training import EngineConfig
from imdm_dist.model import DiT
from imdm_dist.model.backbone import LayerNorm
from imdm_dist.training.apex import apex_layer_norm


def prepare_blocks(model: DiT, config: EngineConfig) -> DiT:
    """Set the model up as `config` says, in place, on its device; names of modules and parameters stay.

    Raises:
        ValueError: apex is asked for and is not there, or does not agree with torch.
    """
    if config.layer_norm == "apex":
        normalise = apex_layer_norm(model.device)
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.normalise = normalise  # type: ignore[method-assign, assignment]
    for block in model.blocks:
        if config.compile:
            block.compile()
        if config.recompute:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return model
