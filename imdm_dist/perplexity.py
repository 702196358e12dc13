"""Perplexities: exp of a mean loss in nats per token, with the standard error of the draws behind it.

Above 709 nats exp is infinite: JSON then has null for the perplexity, beside the nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


def exp_of_mean(nats: float) -> float:
    """exp of a mean loss; infinite where no float holds it, and nan of nan."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def finite(value: float | None) -> float | None:
    """The value if it is a finite number, else None: what JSON can hold. Zero has no sign."""
    return value + 0.0 if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Perplexity:
    """A mean loss and its exponential."""

    nats: float
    """Mean loss per token."""
    nats_se: float | None = None
    """Standard error of the draws behind it; None where nothing is drawn, or too little to say."""

    @property
    def ppl(self) -> float:
        """exp of the mean."""
        return exp_of_mean(self.nats)

    @property
    def ppl_se(self) -> float | None:
        """Standard error of `ppl`, to first order: a relative one, as large as that of the nats."""
        return None if self.nats_se is None else self.ppl * self.nats_se

    def to_dict(self) -> dict[str, float | None]:
        """ppl, ppl_se, nats and nats_se, ready for JSON: None where a number is not finite."""
        values = {"ppl": self.ppl, "ppl_se": self.ppl_se, "nats": self.nats, "nats_se": self.nats_se}
        return {name: finite(value) for name, value in values.items()}


@dataclass(frozen=True)
class Perplexities:
    """One model on some rows, by what the mean is over."""

    all: Perplexity
    """All tokens that the model predicts (MDLM's convention): of a causal model all but the first of each row."""
    text: Perplexity
    """Text tokens: all but the first and the last of each row, which packing forces."""

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Both as dictionaries."""
        return {name: getattr(self, name).to_dict() for name in asdict(self)}


def show_perplexity(figures: Mapping[str, Any] | None) -> str | None:
    """A perplexity of `Perplexity.to_dict` as text, `55.4 ± 0.8`; exp(812) where no float holds it, None for none."""
    if figures is None or figures["nats"] is None:
        return None
    value, error = figures["ppl"], figures["ppl_se"]
    if value is None:
        return f"exp({figures['nats']:.0f})"
    return with_error(value, error) if error else f"{value:.{max(0, 2 - _magnitude(value))}f}"


def with_error(value: float, error: float) -> str:
    """A value and its standard error, which is not 0: one digit of the error, two if the first is a 1."""
    places = max(0, (1 if f"{error:e}"[0] == "1" else 0) - _magnitude(error))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _magnitude(value: float) -> int:
    """Power of ten of the first digit."""
    return int(f"{value:e}".partition("e")[2])
