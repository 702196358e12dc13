"""The metrics log of a run, metrics.jsonl, and its mirror at Weights & Biases."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from imdm_dist import run_files
from imdm_dist.files import has_fields, publish_file, read_record, write_json
from imdm_dist.training.wandb_sync import Mode, go_offline, one_line

INIT_S = 30.0
"""Seconds that Weights & Biases may take to begin an online run."""


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; empty if there are none. Left out is what is no whole line, as after a kill."""
    path = Path(folder) / run_files.METRICS
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and has_fields(line, {"step": int}):
                lines.append(line)
    return lines


class MetricsLog:
    """Appends lines; a resumed run first forgets those after the step it resumes from.

    Args:
        folder: the run's folder.
        done: steps done so far.
        wandb: whether and how to mirror, as `mirror_mode` found it possible.
        config: what the mirror shows as the run's configuration.
    """

    def __init__(self, folder: Path, done: int, wandb: Mode, config: dict[str, Any]) -> None:
        kept = [line for line in read_metrics(folder) if line["step"] <= done]
        with publish_file(folder / run_files.METRICS) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(folder / run_files.METRICS, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._mirror: Any = None
        if wandb != "off":
            self._mirror = _start_wandb(folder, wandb, config)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it must hold `step`."""
        self._file.write(json.dumps(line) + "\n")
        self._mirrored(lambda mirror: mirror.log(line))

    def close(self) -> None:
        """Close the file and the mirror."""
        self._file.close()
        self._mirrored(lambda mirror: mirror.finish())

    def _mirrored(self, do: Callable[[Any], None]) -> None:
        """Do something with the mirror, if there is one; training does not end because it breaks."""
        if self._mirror is None:
            return
        try:
            do(self._mirror)
        except Exception as error:  # of the library, or of its other process
            print(f"no longer mirrored to Weights & Biases ({one_line(error)}): see metrics.jsonl", file=sys.stderr)
            self._mirror = None


def _start_wandb(folder: Path, mode: Mode, config: dict[str, Any]) -> Any:
    import wandb

    # Runs resume under an id of their own: folders of two runs may have one name, and offline runs know no other way.
    path = folder / run_files.WANDB_ID
    identity = read_record(path, str)
    if not identity:
        identity = uuid.uuid4().hex
        write_json(path, identity)
    about: dict[str, Any] = {"project": "imdm_dist", "name": folder.name, "id": identity, "resume": "allow"}
    about |= {"dir": folder, "config": config}
    try:
        run = wandb.init(**about, mode=cast(Any, mode), settings=wandb.Settings(init_timeout=INIT_S))
    except wandb.errors.Error as error:
        if mode == "offline":
            raise ValueError(f"train.wandb=offline does not record ({one_line(error)}): set train.wandb=off") from None
        run = wandb.init(**about, mode=cast(Any, go_offline(one_line(error))))
    # Its own count of steps only rises; ours goes back when a run is resumed, and those lines would be lost or moved.
    run.define_metric("*", step_metric="step")
    return run
