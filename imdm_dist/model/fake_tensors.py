"""Backbones whose tensors have shapes and no numbers, to count what a run will need before there is anything to run."""

from __future__ import annotations

import torch
from torch import nn

from imdm_dist.config.model import ModelConfig
from imdm_dist.model.backbone import Backbone, sketch
from imdm_dist.model.vocabulary import Vocabulary


def fake_backbone(
    config: ModelConfig, vocab_size: int, blocks: int, dtype: torch.dtype = torch.float32, ranks: int = 1
) -> tuple[Backbone, int]:
    """A backbone on the CPU of the FakeTensorMode that is on.

    Args:
        blocks: how many blocks to keep where all have the same parameters; else all are kept.
        ranks: tensor-parallel ranks; the shapes are those of one rank's share.

    Returns:
        the backbone, and how many blocks were left out.
    """
    model = sketch(config, vocab_size)
    kinds = {tuple((name, p.shape) for name, p in block.named_parameters()) for block in model.blocks}
    left_out = max(0, len(model.blocks) - blocks) if len(kinds) == 1 else 0
    if left_out:
        del model.blocks[blocks:]
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            shape, cut = list(parameter.shape), model.cut_of(f"{path}.{name}" if path else name)
            if cut is not None:
                shape[cut.dim] = -(-shape[cut.dim] // ranks)
            module.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=dtype)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty_like(buffer, device="cpu"))
    if ranks > 1:
        columns = -(-vocab_size // ranks)
        model.vocabulary = Vocabulary(columns, columns - 1)
    return model, left_out
