"""Tokens a second of the sampler at a few numbers of steps, in float32 as the tools sample and under bfloat16 autocast.

Shape suffixes: B batch, L length.
"""

from __future__ import annotations

import torch

from benchmarks.gpu_parts.report import Report
from benchmarks.gpu_parts.speed import VOCAB, settings
from imdm_dist import draws
from imdm_dist.diffusion.sampler import sample
from imdm_dist.draws import Purpose
from imdm_dist.model import build_backbone


def run(report: Report) -> None:
    """Sample unconditionally with an untrained model: what it says takes no less time than sense."""
    config = settings(report.quick)
    vocab = 301 if report.quick else VOCAB
    model = build_backbone(config.model, vocab, vocab - 1).eval().to(report.device)
    start_BL = torch.full((2 if report.quick else 16, config.data.length), model.mask_id)
    seed_B = draws.derive_seed(0, Purpose.SAMPLE, torch.arange(len(start_BL)))
    for precision in ("fp32", "autocast"):
        with torch.autocast(report.device.type, torch.bfloat16, enabled=precision == "autocast"):
            sample(model, start_BL, seed_B, 2)  # loads what is loaded on first use
            for steps in (2, 4) if report.quick else (8, 32, 128):
                with report.clock() as seconds:
                    found = sample(model, start_BL, seed_B, steps)
                report.figure(f"tokens a second in {steps} steps, {precision}", start_BL.numel() / seconds[0], "1/s")
                with report.waits(f"times that the GPU is waited for in {steps} steps, {precision}"):
                    found = sample(model, start_BL, seed_B, steps)
                outside = (found.tokens_BL < 0) | (found.tokens_BL >= vocab - 1)
                report.check(f"tokens outside the vocabulary in {steps} steps, {precision}", int(outside.sum()), 0)
