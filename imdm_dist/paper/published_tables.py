"""Published figures of arXiv 2605.10518, to hold beside ours."""

from __future__ import annotations

TABLE_1: dict[str, dict[str, float]] = {
    "mdm": {"validity": 0.498, "token_entropy": 0.69, "factorization_error": 0.693},
    "imdm": {"validity": 0.977, "token_entropy": 0.69, "factorization_error": 0.082},
    "random": {"validity": 0.5, "token_entropy": 0.69},
}
"""Synthetic {00, 11}, one step, 5,000 samples; entropy and error in nats."""

TABLE_2: list[dict[str, str | float]] = [
    {"model": "imdm", "noise": "eps_A", "token_1": 0.982, "token_2": 1.0},
    {"model": "imdm", "noise": "eps_B", "token_1": 0.006, "token_2": 0.004},
    {"model": "mdm", "noise": "none", "token_1": 0.497, "token_2": 0.497},
]
"""P(token = 0) at the two positions."""

LM1B_STEPS = (2, 4, 8, 16)

TABLE_4: dict[str, tuple[float, float, float, float]] = {
    "SDTT, MDLM": (584.22, 227.08, 126.07, 93.29),
    "SDTT, IMDM": (524.31, 210.05, 122.52, 90.16),
    "ReDi, MDLM": (530.36, 195.39, 113.14, 85.27),
    "ReDi, IMDM": (284.62, 151.89, 104.93, 81.57),
    "SDTT + ReDi, MDLM": (353.90, 122.56, 72.04, 55.36),
    "SDTT + ReDi, IMDM": (165.85, 93.44, 65.55, 52.51),
}
"""LM1B, unconditional Gen. PPL under GPT-2 Large, at `LM1B_STEPS`."""

TABLE_5: dict[str, tuple[float, float, float, float]] = {
    "SDTT, MDLM": (4.25, 4.25, 4.26, 4.27),
    "SDTT, IMDM": (4.24, 4.24, 4.25, 4.25),
    "ReDi, MDLM": (4.29, 4.27, 4.27, 4.26),
    "ReDi, IMDM": (4.24, 4.25, 4.26, 4.26),
    "SDTT + ReDi, MDLM": (4.25, 4.22, 4.22, 4.21),
    "SDTT + ReDi, IMDM": (4.15, 4.19, 4.20, 4.20),
}
"""LM1B, unconditional sample entropy in nats, at `LM1B_STEPS`."""
