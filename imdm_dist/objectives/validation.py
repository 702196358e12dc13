"""Validation loss: the NELBO on held-out rows, the same times, masks and noise at every call.

Shape suffixes: B batch, L length.
"""

from __future__ import annotations

import math

import torch

from imdm_dist import draws
from imdm_dist.data import TokenFile
from imdm_dist.draws import Purpose
from imdm_dist.model import DiT
from imdm_dist.objectives.batch import build_batch, draw_mask, stratified_time
from imdm_dist.objectives.nelbo import nelbo

_SEED = 0
_CHUNK_ROWS = 4096


@torch.no_grad()
def validation_perplexity(model: DiT, data: TokenFile, rows: int, batch: int = 64) -> float:
    """exp of the mean NELBO in nats per token over the first `rows` rows, begin and end tokens counted.

    An upper bound on perplexity. Times are stratified over the rows and lie in [1e-3, 1], as in MDLM.
    """
    was_training = model.training
    model.eval()
    rows = min(rows, data.rows)
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, rows, batch):
        index_B = torch.arange(first, min(first + batch, rows))
        seed_B = draws.derive_seed(_SEED, Purpose.VALID, index_B)
        time_B = stratified_time(seed_B, first, rows)
        masked_BL = draw_mask(seed_B, time_B, data.length)
        examples = build_batch(
            data.take(index_B), masked_BL, time_B, seed_B, seed_B, data.mask_id, float(rows * data.length)
        )
        total += nelbo(model, examples.to(model.device), _CHUNK_ROWS).double().cpu()
    model.train(was_training)
    return math.exp(float(total))
