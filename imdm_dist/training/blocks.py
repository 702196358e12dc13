"""How the blocks of a backbone run in training: recomputed in backward, compiled, or as they are."""

from __future__ import annotations

import functools

from torch.utils.checkpoint import checkpoint

from imdm_dist.config.schema import EngineConfig
from imdm_dist.model import DiT


def prepare_blocks(model: DiT, config: EngineConfig) -> DiT:
    """Set the blocks up as `config` says, in place; names of modules and parameters stay."""
    for block in model.blocks:
        if config.compile:
            block.compile()
        if config.recompute:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return model
