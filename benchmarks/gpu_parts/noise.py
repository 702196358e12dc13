"""The bits of all draws on the device and on the host.

Shape suffixes: R rows, K noise dimensions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_parts.report import Report
from imdm_dist import draws
from imdm_dist.config.model import MaskConfig
from imdm_dist.draws import Purpose
from imdm_dist.model.mask_embedding import MaskedRows, build_mask
from imdm_dist.model.masks.finite import FiniteMask
from imdm_dist.model.vocabulary import Vocabulary

ROUNDING = 1e-5
"""Largest difference of gaussian noise, whose logarithms and cosines each device rounds in its own way."""


def run(report: Report) -> None:
    """Draw the same on both, and count what differs."""
    device = report.device
    rows, dim = (64, 7) if report.quick else (4096, 768)
    seed_R = draws.derive_seed(3, Purpose.EXAMPLE, torch.arange(rows) - rows // 2)
    position_R, redraw_R = torch.arange(rows) % 1024, torch.arange(rows) % 129
    there = seed_R.to(device), position_R.to(device), redraw_R.to(device)
    report.check(
        "child seeds that differ", _unlike(draws.derive_seed(there[0], Purpose.PAIR, there[1]),
        draws.derive_seed(seed_R, Purpose.PAIR, position_R)), 0,
    )  # fmt: skip
    for purpose in (Purpose.KEEP, Purpose.REVEAL, Purpose.TOKEN, Purpose.TIME, Purpose.MASK):
        found = draws.uniform(there[0], purpose, there[1], there[2])
        report.check(
            f"uniforms ({purpose.name.lower()}) that differ",
            _unlike(found, draws.uniform(seed_R, purpose, position_R, redraw_R)),
            0,
        )
    found, wanted = (draws.noise(*keys, dim, "uniform") for keys in (there, (seed_R, position_R, redraw_R)))
    report.check("values of uniform mask noise that differ", _unlike(found, wanted), 0)
    found, wanted = (draws.noise(*keys, dim, "gaussian") for keys in (there, (seed_R, position_R, redraw_R)))
    report.check("largest difference of gaussian mask noise", float((found.cpu() - wanted).abs().max()), ROUNDING)
    masked = MaskedRows(torch.arange(rows), seed_R, position_R, redraw_R)
    finite = build_mask(MaskConfig(kind="finite"), 8)
    assert isinstance(finite, FiniteMask)
    report.check(
        "states of the finite mask that differ", _unlike(finite.state(masked.to(device)), finite.state(masked)), 0
    )
    infinite = build_mask(MaskConfig(kind="infinite", noise_dim=dim), 16)
    assert infinite is not None
    with torch.no_grad():
        torch.nn.init.normal_(infinite.get_parameter("2.weight"), generator=torch.Generator().manual_seed(0))
        wanted = infinite.offset(masked)
        found = infinite.to(device).offset(masked.to(device)).cpu()
    report.check(
        "offsets of the infinite mask, largest difference over the largest",
        float((found - wanted).abs().max() / wanted.abs().max()),
        ROUNDING,
    )
    _tokens(report, seed_R[: 16 if report.quick else 512], 101 if report.quick else 50_258)


def _tokens(report: Report, seed_R: Tensor, vocab_size: int) -> None:
    """The same logits in float64 give the same tokens."""
    generator = torch.Generator().manual_seed(1)
    logits_RV = 4 * torch.randn(len(seed_R), vocab_size, generator=generator, dtype=torch.float64)
    tokens = []
    vocabulary = Vocabulary(vocab_size, vocab_size - 1)
    for device in (report.device, torch.device("cpu")):
        uniform_R = draws.uniform(seed_R.to(device), Purpose.TOKEN, torch.arange(len(seed_R), device=device))
        logits = vocabulary.rule_out(logits_RV.to(device, copy=True))
        tokens.append(vocabulary.invert_cdf(logits, uniform_R))
    report.check("tokens from the same logits that differ", _unlike(*tokens), 0)


def _unlike(found: Tensor, wanted: Tensor) -> int:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    return int((found.cpu() != wanted.cpu()).sum())
