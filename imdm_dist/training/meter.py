"""Losses, gradient norms and speed, gathered on the device over an interval of steps and read at its end."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from imdm_dist.device import peak_flops
from imdm_dist.objectives.flops import StepFlops
from imdm_dist.parallel.topology import Topology


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
        flops: operations of a step over all ranks, by part.
        max_skipped: steps in a row without a finite gradient, after which `check` raises.
        init: what the first of these steps starts from, if it is the first of a run with inputs.init.
    """

    def __init__(
        self, examples: int, length: int, topology: Topology, flops: StepFlops, max_skipped: int, init: str = ""
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
        if self._peak:
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
