"""Validation loss: the NELBO on held-out rows, the same times, masks and noise at every call.

Two means are given. Over all L tokens of a row, begin and end token included: MDLM's convention. Over text tokens
(`TokenFile.text_positions`): the terms of the two forced positions are left out of sum and count, while the model sees
these positions masked or not as the process says. What is left is the mean over orders of -log q(text | order), where
q draws text from the model one token after the other and puts the forced tokens in when their turn comes: a law of
texts, so this is a bound from above on -log of the mean of q over orders, as the NELBO is on -log p.

Both are short of a bound by what times outside [1e-3, 1] and the mask rate 1 - 1e-3 at t = 1 leave out. With c(u) the
mean cross-entropy of a token while every token is masked at rate u, a bound is the integral of c over [0, 1], and
this is 1 / (1 - e) times that over [e - e^2, 1 - e], e = 1e-3: e (c(1) + c(0) - mean c) less to first order, at most
e (c(1) + c(0)). For text models that is 0.003 to 0.006 nats, about 0.4 % of the perplexity.

Shape suffixes: B batch, L length, D mask draws a row, R rows, P pairs of rows; a leading 2 all tokens and text tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm import tqdm

from imdm_dist import draws
from imdm_dist.data import TokenFile
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone
from imdm_dist.objectives.batch import build_batch, draw_mask, strata, time_within
from imdm_dist.objectives.nelbo import nelbo_by_row
from imdm_dist.perplexity import Perplexities, Perplexity

_CHUNK_ROWS = 4096


@torch.no_grad()
def validation_sums(
    model: Backbone,
    data: TokenFile,
    rows: int,
    draws_a_row: int = 1,
    rank: int = 0,
    ranks: int = 1,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """This rank's part of the NELBOs of the first `rows` rows, each under `draws_a_row` draws of time, masks and noise.

    Times are stratified over the rows in each draw and lie in [1e-3, 1], as in MDLM; from draw to draw a row's stratum
    moves on, so that its times are spread. Every rank makes the same number of forward passes: ranks whose parameters
    are cut over one another wait for each other in each.

    Args:
        seed: of the first draw; those after it take the numbers after it.

    Returns:
        float64 [2, D, R], nats of a whole row, 0 for the rows of other ranks: to be summed over `ranks`, and made
        into figures by `validation_figures`.
    """
    was_training = model.training
    model.eval()
    rows = min(rows, data.rows)
    sums_2DR = torch.zeros(2, draws_a_row, rows, dtype=torch.float64, device=model.device)
    places = [(draw, start) for draw in range(draws_a_row) for start in range(0, rows, batch * ranks)]
    for draw, start in tqdm(places, desc="validation", unit="batch", leave=False, disable=not progress):
        first = start + rank * batch
        surplus = first >= rows
        index_B = torch.arange(first, min(first + batch, rows)) if not surplus else torch.zeros(1, dtype=torch.int64)
        seed_B = draws.derive_seed(seed + draw, Purpose.VALID, index_B)
        time_B = time_within(_strata(draw, draws_a_row, rows)[index_B], seed_B, rows)
        masked_BL = draw_mask(seed_B, time_B, data.length)
        examples = build_batch(data.take(index_B), masked_BL, time_B, seed_B, seed_B, data.mask_id, total=math.inf)
        examples = examples.to(model.device)
        sums_2B = nelbo_by_row(model, examples, _CHUNK_ROWS, batch * data.length, data.text_positions)
        if not surplus:
            sums_2DR[:, draw, first : first + len(index_B)] = sums_2B
    model.train(was_training)
    return sums_2DR


def _strata(draw: int, draws_a_row: int, rows: int) -> Tensor:
    """Stratum of each row's time in a draw, int64 [R]; moved on by an even number, which keeps `_pairs` together."""
    return (strata(rows) + draw * rows // (2 * draws_a_row) * 2) % rows


def validation_figures(sums_2DR: Tensor, data: TokenFile) -> Perplexities:
    """Perplexities from the sums of `validation_sums` over all ranks."""
    text = data.text_positions
    whole, of_text = sums_2DR.cpu()
    return Perplexities(_mean(whole, data.length), _mean(of_text, text.stop - text.start))


def _mean(sums_DR: Tensor, tokens: int) -> Perplexity:
    """Mean nats a token, and the standard error that the draws of times, masks and noise leave in it.

    Rows are paired that have neighbouring times in every draw. What time does to the loss is nearly the same for both
    and goes out of their difference; what the two rows are goes out of its spread over the draws. So the error is that
    of the figure of these rows, and statements on other rows need more. With one draw a row the pairs' differences
    count as they are: the error then also has the rows' own in it, as if they were drawn from a population.
    """
    count, rows = sums_DR.shape
    nats = float(sums_DR.mean()) / tokens
    if rows < 2:
        return Perplexity(nats)
    by_time_DR = sums_DR[:, strata(rows).argsort()]
    # An odd row at the end, where times are largest and draws differ least, is held against the one before it.
    pairs_DP2 = by_time_DR[:, : rows // 2 * 2].unflatten(1, (-1, 2))
    if rows % 2:
        pairs_DP2 = torch.cat((pairs_DP2, by_time_DR[:, None, -2:]), dim=1)
    gap_DP = pairs_DP2[..., 0] - pairs_DP2[..., 1]
    spread_P = gap_DP.var(dim=0) if count > 1 else gap_DP.square().squeeze(0)
    if rows % 2:
        spread_P[-1] /= 2
    return Perplexity(nats, math.sqrt(float(spread_P.sum()) / count) / rows / tokens)
