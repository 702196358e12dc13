"""The figures of arXiv 2605.10518, Sec. 5.2, for a model of the two sequences 00 and 11.

"Factorization error" (Eq. 6 "at full masking by marginalizing over 10,000 noise realizations") can be read in two
ways; both are given, with `FORMULAS` beside them in every report.

Shape suffixes: B samples, K noise draws, V vocabulary (tokens 0 and 1, mask 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from imdm_dist.draws import Purpose, derive_seed
from imdm_dist.evaluation.token_rows import Rows, as_array

NOISE_DRAWS = 10_000

FORMULAS: dict[str, str] = {
    "validity": "share of one-step samples x with x1 = x2",
    "token_entropy": "-sum_v f(v) ln f(v), f(v) = share of token v among all tokens of all samples (nats; truth ln 2)",
    "factorization_error": (
        "KL(p_data || q) in nats, q(x) = mean_k p_k(x1) p_k(x2), p_data(00) = p_data(11) = 1/2; p_k: the model's token "
        "distributions at full masking under noise k. The best factorised model without noise has ln 2 = 0.693"
    ),
    "factorization_error_mean": (
        "mean_k -ln[p_k(x1*) p_k(x2*)] in nats, x*(k) = argmax over {00, 11} of p_k(x1) p_k(x2): the pair that noise k "
        "decides. Uniform p_k gives 2 ln 2 = 1.386, a model that decides fully gives 0"
    ),
}


class NoiseModel(Protocol):
    """What of a model is used here."""

    mask_id: int

    @property
    def device(self) -> torch.device: ...

    def logits(self, x_BL: Tensor, *, seed_B: Tensor, redraw_BL: Tensor | None = None) -> Tensor:
        """Logits float32 [B, L, V] of token rows under the mask noise of `seed_B`."""


@dataclass(frozen=True)
class NoiseResponse:
    """Log-probabilities at full masking under K noise draws, log_p_K2V float64 [K, 2, V], and the draws' seeds."""

    seed_K: Tensor
    log_p_K2V: Tensor

    @property
    def zero_K2(self) -> np.ndarray:
        """P(token = 0) at both positions, float64 [K, 2]."""
        return self.log_p_K2V[:, :, 0].exp().numpy()

    @property
    def pair_log_p_K2(self) -> Tensor:
        """ln p_k(x1) p_k(x2) of the pairs 00 and 11, float64 [K, 2]."""
        return self.log_p_K2V[:, :, :2].sum(dim=1)


@torch.no_grad()
def noise_response(model: NoiseModel, seed: int, draws: int = NOISE_DRAWS, batch: int = 1000) -> NoiseResponse:
    """Evaluate `model` on the fully masked pair under `draws` noises, children of `seed` that nothing else uses."""
    seed_K = derive_seed(seed, Purpose.TEST, torch.arange(draws))
    parts = []
    for seed_B in seed_K.split(batch):
        masks_B2 = torch.full((len(seed_B), 2), model.mask_id, device=model.device)
        logits_B2V = model.logits(masks_B2, seed_B=seed_B.to(model.device))
        parts.append(logits_B2V.cpu().double().log_softmax(dim=-1))
    return NoiseResponse(seed_K, torch.cat(parts))


def validity(samples_B2: Rows) -> float:
    """Share of samples whose two tokens are equal."""
    pairs = as_array(samples_B2)
    return float((pairs[:, 0] == pairs[:, 1]).mean())


def token_entropy(samples_B2: Rows) -> float:
    """Entropy, in nats, of the token distribution over the whole set of samples."""
    _, counts = np.unique(as_array(samples_B2), return_counts=True)
    share = counts / counts.sum()
    return float(0 - (share * np.log(share)).sum())


def factorization_error(response: NoiseResponse) -> float:
    """KL of the data law from the noise-averaged product of token probabilities, in nats (first reading of Eq. 6)."""
    log_q_2 = response.pair_log_p_K2.logsumexp(dim=0) - math.log(len(response.seed_K))
    return float(-math.log(2) - log_q_2.mean())


def factorization_error_mean(response: NoiseResponse) -> float:
    """Mean over noises of the negative log-likelihood of the decided pair, in nats (second reading of Eq. 6)."""
    return float(0 - response.pair_log_p_K2.max(dim=1).values.mean())


def table1_row(samples_B2: Rows, response: NoiseResponse) -> dict[str, float]:
    """The figures of Table 1 for one model."""
    return {
        "validity": validity(samples_B2),
        "token_entropy": token_entropy(samples_B2),
        "factorization_error": factorization_error(response),
        "factorization_error_mean": factorization_error_mean(response),
    }


def table2_rows(imdm: NoiseResponse, mdm: NoiseResponse) -> list[dict[str, Any]]:
    """P(token = 0) at both positions, as in Table 2.

    eps_A and eps_B are not picked by hand: each is the first of the draws whose more probable pair is 00 (eps_A) or
    11 (eps_B). Its row is left out when no draw decides so. The MDM has no noise: its row is the first draw's.
    """
    decides_00_K = imdm.pair_log_p_K2.argmax(dim=1) == 0
    rows: list[dict[str, Any]] = []
    for noise, decided_K in (("eps_A", decides_00_K), ("eps_B", ~decides_00_K)):
        if decided_K.any():
            rows.append(_table2_row("imdm", noise, imdm, int(decided_K.int().argmax())))
    rows.append(_table2_row("mdm", "none", mdm, 0))
    return rows


def _table2_row(model: str, noise: str, response: NoiseResponse, draw: int) -> dict[str, Any]:
    first, second = response.zero_K2[draw].tolist()
    return {"model": model, "noise": noise, "draw": draw, "token_1": first, "token_2": second}
