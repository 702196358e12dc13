"""A loss forward and backward as a step computes it, on tensors without numbers, so that it can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imdm_dist.diffusion.schedule import alpha
from imdm_dist.model import Backbone
from imdm_dist.model.mask_embedding import MaskedRows
from imdm_dist.objectives.batch import MaskedBatch, build_batch


def even_batch(time_B: Tensor, length: int, vocab_size: int) -> MaskedBatch:
    """Examples of given times, float64 [B], on the host, with as many masks as there are on average, evenly spread."""
    share_B1 = (1 - alpha(time_B))[:, None]
    before_BL = (torch.arange(length) * share_B1 + 0.5).floor()
    masked_BL = (torch.arange(1, length + 1) * share_B1 + 0.5).floor() > before_BL
    seed_B = torch.arange(len(time_B))
    clean_BL = torch.zeros_like(masked_BL, dtype=torch.int64)
    return build_batch(clean_BL, masked_BL, time_B, seed_B, seed_B, vocab_size - 1, max(1.0, float(masked_BL.sum())))


def dry_run(model: Backbone, loss: Callable[[Backbone], Tensor], note: Callable[[str, Tensor], Any]) -> None:
    """Compute a loss and its gradients.

    Args:
        loss: the loss, given the model.
        note: called with a moment's name and a tensor of then: `hidden`, the model has computed its hidden states
            (given); `loss`, forward is done; `backbone`, backward reaches the hidden states; `end`.
    """
    hidden = model.hidden

    def noted(x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        h_BLD = hidden(x_BL, masked)
        note("hidden", h_BLD)
        h_BLD.register_hook(lambda grad_BLD: note("backbone", grad_BLD))
        return h_BLD

    model.hidden = noted  # type: ignore[method-assign]
    try:
        value = loss(model)
        note("loss", value)
        value.backward()
        note("end", value)
    finally:
        del model.hidden
