"""Backbones that have shapes and no numbers, to count what a run will need before there is anything to run."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from imdm_dist.config.model import ModelConfig
from imdm_dist.model.backbone import Backbone, build_backbone
from imdm_dist.model.vocabulary import Vocabulary
from imdm_dist.parallel.cuts import cut_of


def meta_backbone(config: ModelConfig, vocab_size: int) -> Backbone:
    """A backbone of the meta device."""
    with torch.device("meta"):
        return build_backbone(config, vocab_size, vocab_size - 1)


def fake_backbone(
    config: ModelConfig, vocab_size: int, blocks: int, dtype: torch.dtype = torch.float32, ranks: int = 1
) -> tuple[Backbone, int]:
    """A backbone on the CPU of the FakeTensorMode that is on.

    Args:
        blocks: how many blocks to keep if they are all alike; else all are kept.
        ranks: tensor-parallel ranks; the shapes are those of one rank's part.

    Returns:
        the backbone, and how many blocks were left out.
    """
    model = meta_backbone(config, vocab_size)
    all_blocks = cast(nn.ModuleList, model.blocks)
    kinds = {tuple((name, p.shape) for name, p in block.named_parameters()) for block in all_blocks}
    left_out = max(0, len(all_blocks) - blocks) if len(kinds) == 1 else 0
    if left_out:
        del all_blocks[blocks:]
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            shape, cut = list(parameter.shape), cut_of(f"{path}.{name}")
            if cut is not None:
                shape[cut.dim] = -(-shape[cut.dim] // ranks)
            module.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=dtype, device="cpu")))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty_like(buffer, device="cpu"))
    if ranks > 1:
        columns = -(-vocab_size // ranks)
        model.vocabulary = Vocabulary(columns, columns - 1)
    return model, left_out
