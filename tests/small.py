"""Small models with random weights everywhere: zero-initialised gates and heads would hide errors."""

from __future__ import annotations

from typing import Any

import torch

from imdm_dist.config.model import MaskConfig
from imdm_dist.model import Backbone, build_backbone
from imdm_dist.model.dit import DitConfig


def small_config(kind: str = "infinite", **changes: Any) -> DitConfig:
    """Width 32, two blocks, two heads, noise of 8 dimensions, 3 states if finite."""
    settings: dict[str, Any] = {
        "size": "custom",
        "hidden_dim": 32,
        "n_blocks": 2,
        "n_heads": 2,
        "cond_dim": 16,
        "dropout": 0.0,
    }
    return DitConfig(**(settings | changes), mask=MaskConfig(kind=kind, noise_dim=8, n_states=3))


def small_model(
    kind: str = "infinite", vocab_size: int = 11, mask_id: int = 10, seed: int = 0, **changes: Any
) -> Backbone:
    """A model in eval mode whose every parameter is random."""
    model = build_backbone(small_config(kind, **changes), vocab_size, mask_id).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "output_layer" in name or "imdm_mlp" in name else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model
