"""A check that weights hold no infinities or NaN."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def check_finite(named: Iterable[tuple[str, Tensor]], what: str, remedy: str) -> None:
    """Check that tensors hold numbers alone.

    Args:
        named: tensors by name.
        what: what holds them, and
        remedy: what to do if it is damaged, for the message.

    Raises:
        ValueError: one holds infinities or NaN.
    """
    for name, tensor in named:
        if not tensor.isfinite().all():
            raise ValueError(f"{what} holds infinities or no numbers in {name}: {remedy}")
