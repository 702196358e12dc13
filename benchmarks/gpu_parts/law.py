"""The law of the sampler on the device, against the exact chain by enumeration as in tests/diffusion."""

from __future__ import annotations

from benchmarks.gpu_parts.report import Report
from tests.diffusion import test_sampler_law as law


def run(report: Report) -> None:
    """Enumerate with a table for a model, then count samples of a small backbone."""
    device = report.device
    cases = (
        [("posterior", 1.0)]
        if report.quick
        else [("posterior", 1.0), ("posterior", 0.6), ("fixed", 1.0), ("fresh", 1.0)]
    )
    masks = range(law.TOKENS, law.CODES)
    for policy, start_time in cases[: 1 if report.quick else None]:
        found, model = law.sampler_law(policy, start_time, device)
        exact = law.exact_law(
            model.prediction, policy, law.chain_alphas(start_time), (masks, [law.CLAMPED], masks)
        )  # fmt: skip
        worst = max(abs(float(found[codes[0], codes[2]]) - wanted) for codes, wanted in exact.items())
        report.check(f"probability of the {policy} chain from time {start_time}, largest difference", worst, 1e-12)
    count = 2_000 if report.quick else 40_000
    for clamped in (None, 1):
        worst = law.chi_square("posterior", clamped, device, count)
        report.check(f"chi-square of a backbone's samples, second token {clamped or 'free'}", worst, 25)
