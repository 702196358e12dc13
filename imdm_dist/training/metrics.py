"""metrics.jsonl is the record of a run; Weights & Biases, where wanted, mirrors it."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from imdm_dist.device import peak_flops
from imdm_dist.files import has_fields, publish_file, read_record, write_json
from imdm_dist.objectives.flops import StepFlops
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.wandb_sync import Mode, go_offline, one_line

INIT_S = 30.0
"""Seconds that Weights & Biases may take to begin an online run."""


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; empty if there are none. Left out is what is no whole line, as after a kill."""
    path = Path(folder) / "metrics.jsonl"
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and has_fields(line, {"step": int}):
                lines.append(line)
    return lines


@dataclass
class Pause:
    """Time that was not spent on steps."""

    seconds: float = 0.0


class Meter:
    """Losses, gradient norms and speed of an interval.

    Args:
        examples: of a step, over all ranks.
        length: tokens of an example.
        topology: losses are shares of the data-parallel ranks; they stay on the device until the interval ends.
        flops: operations of a step over all ranks, by part; None where no MFU is wanted.
        max_skipped: steps in a row without a finite gradient, after which `check` raises.
        init: what the first of these steps starts from, if it is the first of a run with inputs.init.
    """

    def __init__(
        self, examples: int, length: int, topology: Topology, flops: StepFlops | None, max_skipped: int, init: str = ""
    ) -> None:
        self.examples, self.length, self.topology, self.max_skipped = examples, length, topology, max_skipped
        self.flops, self._peak = flops, peak_flops(topology.device)
        self.save_stall = 0.0
        """Seconds that training waited for the last checkpoint; the next lap tells and forgets them."""
        self._in_a_row, self._longest, self._init, self._updated = 0, 0, init, False
        self._restart()

    def _restart(self) -> None:
        self._steps: list[int] = []
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor | float] = []
        self._since, self._data_wait = time.monotonic(), 0.0

    def add(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor | float, data_wait: float) -> None:
        """Note a step; nothing is read from the device."""
        self._steps.append(step)
        self._losses.append(loss)
        self._norms.append(grad_norm)
        self._data_wait += data_wait

    @contextmanager
    def paused(self) -> Iterator[Pause]:
        """Leave out the time that is spent inside."""
        pause, started = Pause(), time.monotonic()
        yield pause
        pause.seconds = time.monotonic() - started
        self._since += pause.seconds

    def lap(self) -> dict[str, Any]:
        """What the interval gave: mean loss, the last gradient norm, tokens a second, seconds waited for data, peak
        memory in GB of this rank, and which steps were skipped because their gradient was not finite. Where the peak
        of the device is known also the share of it that is used: in all, and by the backbone without the head; what
        is computed a second time in backward counts for nothing.

        Skipped steps changed nothing and are left out of the mean; each is listed with the numbers of its examples in
        the run's data order.
        """
        losses = self.topology.sum_over_data(torch.stack(self._losses).double()).tolist()
        norms = [float(norm) for norm in self._norms]
        seconds = time.monotonic() - self._since
        finite = [math.isfinite(norm) for norm in norms]
        good = [loss for loss, is_good in zip(losses, finite, strict=True) if is_good]
        line: dict[str, Any] = {
            "loss": sum(good) / len(good) if good else None,
            "grad_norm": norms[-1] if finite[-1] else None,
            "tokens_per_s": round(self.examples * self.length * len(losses) / seconds, 1),
            "data_wait_s": round(self._data_wait, 4),
            "memory_gb": round(peak_memory(self.topology.device) / 1e9, 3),
        }
        if self._peak and self.flops:
            able = self._peak * self.topology.world * seconds / len(losses)
            useful = self.flops.backbone + self.flops.teacher
            line["mfu"], line["mfu_backbone"] = (useful + self.flops.head) / able, useful / able
        if self.save_stall:
            line["save_stall_s"], self.save_stall = round(self.save_stall, 4), 0.0
        skipped = [step for step, is_good in zip(self._steps, finite, strict=True) if not is_good]
        if skipped:
            line["skipped"] = [
                {"step": step, "examples": [(step - 1) * self.examples, step * self.examples - 1]} for step in skipped
            ]
        for is_good in finite:
            self._in_a_row = 0 if is_good else self._in_a_row + 1
            self._longest = max(self._longest, self._in_a_row)
            self._updated |= is_good
        self._restart()
        return line

    def check(self, finished: bool) -> None:
        """Look at what the last laps skipped.

        Args:
            finished: these were the last steps; a run must not end well without an update.

        Raises:
            ValueError: too many steps in a row, or all there are.
        """
        if self._longest >= self.max_skipped or finished and not self._updated:
            remedy = "lower optimizer.lr or raise optimizer.warmup_steps, and train in another folder"
            if self._init and not self._updated:
                remedy = f"not one was, so the model of inputs.init={self._init} is of no use here; give another"
            raise ValueError(
                f"the gradients of {self._longest} steps in a row are not finite (metrics.jsonl lists them with their "
                f"examples): {remedy}"
            )


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: the allocator's on a GPU, the process's on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def console(line: dict[str, Any]) -> str:
    """A line of metrics for the progress bar."""
    loss = "skipped" if line["loss"] is None else f"{line['loss']:z.4f}"
    norm = "not finite" if line["grad_norm"] is None else f"{line['grad_norm']:.2f}"
    mfu = f", MFU {line['mfu']:.0%}" if "mfu" in line else ""
    return (
        f"loss {loss}, norm {norm}, lr {line['lr']:.1e}, {line['tokens_per_s'] / 1000:.1f}k tok/s{mfu}, "
        f"{line['memory_gb']:.1f} GB, data wait {line['data_wait_s']:.1f} s"
    )


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
        with publish_file(folder / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(folder / "metrics.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
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
    path = folder / "wandb_id.json"
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
