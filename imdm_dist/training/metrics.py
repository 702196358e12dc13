"""metrics.jsonl is the record of a run; Weights & Biases, where wanted, mirrors it."""

from __future__ import annotations

import json
import math
import time
import uuid
from pathlib import Path
from typing import Any, Literal

import torch

from imdm_dist.files import publish_file, read_json, write_json


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; empty if there are none. A last line cut off by a kill is left out."""
    path = Path(folder) / "metrics.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class Meter:
    """Mean loss and speed of an interval.

    Args:
        tokens_per_step: tokens that this process trains on in a step.
        device: where losses are; they are summed there and read once an interval.
    """

    def __init__(self, tokens_per_step: int, device: torch.device) -> None:
        self.tokens_per_step, self.device = tokens_per_step, device
        self._restart()

    def _restart(self) -> None:
        self.loss, self.steps, self._since = torch.zeros((), device=self.device), 0, time.monotonic()

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent on steps."""
        self._since += seconds

    def check(self) -> None:
        """Wait for the device and look at the loss.

        Raises:
            ValueError: it is not finite.
        """
        loss = float(self.loss)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss}: lower optimizer.lr or raise optimizer.warmup_steps, and train in another folder"
            )

    def lap(self) -> dict[str, float]:
        """Mean loss a step and tokens a second since the last lap.

        Raises:
            ValueError: the loss is not finite.
        """
        self.check()
        loss = float(self.loss) / self.steps
        speed = self.tokens_per_step * self.steps / (time.monotonic() - self._since)
        self._restart()
        return {"loss": loss, "tokens_per_s": round(speed, 1)}


class MetricsLog:
    """Appends lines; a resumed run first forgets those after the step it resumes from.

    Args:
        folder: the run's folder.
        done: steps done so far.
        wandb: whether and how to mirror; the package is needed only then.
        config: what the mirror shows as the run's configuration.
    """

    def __init__(
        self, folder: Path, done: int, wandb: Literal["off", "offline", "online"], config: dict[str, Any]
    ) -> None:
        kept = [line for line in read_metrics(folder) if line["step"] <= done]
        with publish_file(folder / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(folder / "metrics.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._mirror: Any = None
        if wandb != "off":
            self._mirror = _start_wandb(folder, wandb, config)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it must hold `step`."""
        self._file.write(json.dumps(line) + "\n")
        if self._mirror is not None:
            self._mirror.log(line, step=line["step"])

    def close(self) -> None:
        """Close the file and the mirror."""
        self._file.close()
        if self._mirror is not None:
            self._mirror.finish()


def _start_wandb(folder: Path, mode: Literal["offline", "online"], config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError(
            f"train.wandb={mode} needs the package wandb: pip install 'imdm_dist[wandb]', or set train.wandb=off"
        ) from None
    # Runs resume under an id of their own: folders of two runs may have one name, and offline runs know no other way.
    path = folder / "wandb_id.json"
    if not path.exists():
        write_json(path, uuid.uuid4().hex)
    identity = read_json(path)
    return wandb.init(
        project="imdm_dist", name=folder.name, id=identity, resume="allow", mode=mode, dir=folder, config=config
    )
