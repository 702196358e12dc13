"""How a setting that a user can get wrong is refused."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds: for settings a user can get wrong."""
    if not condition:
        raise ValueError(message)
