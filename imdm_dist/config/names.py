"""Values that settings of several sections take."""

from __future__ import annotations

from typing import Literal

NoisePolicy = Literal["posterior", "fixed", "fresh"]
Weights = Literal["ema", "raw"]
