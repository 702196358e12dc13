"""What a run says of itself, where it must be there."""

from __future__ import annotations

from pathlib import Path

from imdm_dist.training.heartbeat import Heartbeat, read_heartbeat


def beat_of(folder: Path) -> Heartbeat:
    """The heartbeat in a run's folder."""
    found = read_heartbeat(folder)
    assert found is not None, folder
    return found
