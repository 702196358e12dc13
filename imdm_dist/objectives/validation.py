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
def validation_nelbo(
    model: DiT, data: TokenFile, rows: int, rank: int = 0, ranks: int = 1, batch: int = 64
) -> torch.Tensor:
    """This rank's share of the mean NELBO over the first `rows` rows, begin and end tokens counted.

    Times are stratified over the rows and lie in [1e-3, 1], as in MDLM. Every rank makes the same number of forward
    passes: ranks whose parameters are cut over one another wait for each other in each.

    Returns:
        float64 scalar, nats per token when summed over `ranks`; exp of it bounds the perplexity from above.
    """
    was_training = model.training
    model.eval()
    rows = min(rows, data.rows)
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for start in range(0, rows, batch * ranks):
        first = start + rank * batch
        surplus = first >= rows
        index_B = torch.arange(first, min(first + batch, rows)) if not surplus else torch.zeros(1, dtype=torch.int64)
        seed_B = draws.derive_seed(_SEED, Purpose.VALID, index_B)
        time_B = stratified_time(seed_B, int(index_B[0]), rows)
        masked_BL = draw_mask(seed_B, time_B, data.length)
        tokens = math.inf if surplus else float(rows * data.length)
        examples = build_batch(data.take(index_B), masked_BL, time_B, seed_B, seed_B, data.mask_id, tokens)
        total += nelbo(model, examples.to(model.device), _CHUNK_ROWS).double()
    model.train(was_training)
    return total


def validation_perplexity(model: DiT, data: TokenFile, rows: int) -> float:
    """exp of the mean NELBO in nats per token, in one process."""
    return math.exp(float(validation_nelbo(model, data, rows)))
