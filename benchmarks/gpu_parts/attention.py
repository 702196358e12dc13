"""Soft-capped attention in bfloat16: ours, whose scores are float32, and torch's flex_attention, against float64.

Shape suffixes: B batch, H heads, L length, E head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.gpu_parts.report import Report
from imdm_dist.model.layers import capped_attention

CAP = 50.0
WIDE = 3.0
"""Standard deviation of queries and keys: scores then reach some 40, where the cap is felt."""
ERROR = 0.01
"""Largest root mean square error of ours, over that of the output. Rounding inputs of this width is not in it."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(report: Report) -> None:
    """Error of the output and time of forward and backward of both."""
    shape = (1, 2, 16, 16) if report.quick else (8, 12, 1024, 64)
    generator = torch.Generator().manual_seed(0)
    q_BHLE, k_BHLE, v_BHLE = (
        (scale * torch.randn(shape, generator=generator)).to(report.device, torch.bfloat16)
        for scale in (WIDE, WIDE, 1.0)
    )
    few = [part[:1].double() for part in (q_BHLE, k_BHLE, v_BHLE)]
    wanted = capped_attention(few[0], few[1], few[2], CAP)
    # Uncompiled it is slow, but right; compiling it takes a minute on a CPU.
    flex = flex_attention if report.quick else torch.compile(flex_attention)
    ways: dict[str, Attention] = {
        "ours": lambda q, k, v: capped_attention(q, k, v, CAP),
        "flex_attention": lambda q, k, v: flex(q, k, v, score_mod=_cap),  # type: ignore[return-value]
    }
    for name, attend in ways.items():
        found = attend(q_BHLE[:1], k_BHLE[:1], v_BHLE[:1]).double()
        error = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
        if name == "ours":
            report.check("error of ours, relative root mean square", error, ERROR)
        else:
            report.figure(f"error of {name}, relative root mean square", error, "")
        if name == "ours" or report.device.type == "cuda":  # flex_attention has no backward on a CPU
            _time(report, name, attend, [part.clone().requires_grad_() for part in (q_BHLE, k_BHLE, v_BHLE)])


def _cap(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return CAP * torch.tanh(score / CAP)


def _time(report: Report, name: str, attend: Attention, inputs: list[Tensor]) -> None:
    repeats = 1 if report.quick else 20
    gradient = torch.ones_like(inputs[0])
    torch.autograd.grad(attend(*inputs), inputs, gradient)  # the first compiles
    with report.clock() as seconds:
        for _ in range(repeats):
            torch.autograd.grad(attend(*inputs), inputs, gradient)
    report.figure(f"forward and backward of {name}", 1000 * seconds[0] / repeats, "ms")
