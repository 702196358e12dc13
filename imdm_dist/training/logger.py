"""What a run logs while it trains: losses, speed, MFU and skipped steps, for metrics.jsonl and the progress bar."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from imdm_dist.device import peak_flops
from imdm_dist.objectives.flops import step_flops
from imdm_dist.parallel.topology import Topology
from imdm_dist.perplexity import Perplexity
from imdm_dist.training.heartbeat import LoopStatus
from imdm_dist.training.metrics import MetricsLog
from imdm_dist.training.setup import Run
from imdm_dist.training.wandb_sync import Mode


class Logger:
    """Gathers losses and gradient norms on the device, and reads and tells them at the end of an interval.

    Every rank keeps one, for figures are sums over data-parallel ranks; rank 0 writes.

    Args:
        status: is told the figures of each interval.
        mirror: see `MetricsLog`.
        about: what the mirror shows as the run's configuration.
    """

    def __init__(self, run: Run, topology: Topology, status: LoopStatus, mirror: Mode, about: dict[str, Any]) -> None:
        self.run, self.topology, self.status = run, topology, status
        self._peak = peak_flops(topology.device)
        self._flops = None
        if topology.first and self._peak:  # what MFU is a share of
            self._flops = step_flops(run.config, run.data.train.vocab_size, run.batch_slice.micro_batch)
        self._in_a_row, self._longest, self._updated, self._save_stall = 0, 0, False, 0.0
        first, name = topology.first, run.folder.name
        self._log = MetricsLog(run.folder, run.done, mirror, about) if first else None
        self._bar = tqdm(total=run.last, initial=run.done, desc=name, unit="step", mininterval=1.0, disable=not first)
        self._restart()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _restart(self) -> None:
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor | float] = []
        self._since, self._data_wait = time.monotonic(), 0.0

    def step(self, done: int, loss: Tensor, grad_norm: Tensor | float, data_wait: float) -> None:
        """Note a step; nothing is read from the device.

        Args:
            loss: this data-parallel rank's share.
            data_wait: seconds that its batches were waited for.
        """
        self._steps.append(done)
        self._losses.append(loss)
        self._norms.append(grad_norm)
        self._data_wait += data_wait
        self._bar.update()

    @contextmanager
    def paused(self, saving: bool = False) -> Iterator[None]:
        """Leave the time that is spent inside out of the speed.

        Args:
            saving: it is spent on a checkpoint; the next interval tells how much.
        """
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._since += seconds
        if saving:
            self._save_stall = seconds

    def interval(self, done: int, more: dict[str, Any], finished: bool) -> None:
        """Tell what the steps since the last call gave.

        Args:
            more: what the line holds besides.
            finished: these were the last steps; a run must not end well without an update.

        Raises:
            ValueError: too many steps in a row had no finite gradient, or all there are.
        """
        line = {"step": done, **self._figures(), **more}
        self._write(line)
        self.status.record(line["loss"], line["tokens_per_s"])
        self._bar.set_postfix_str(console(line))
        if self._longest >= self.run.config.train.max_skipped or finished and not self._updated:
            remedy = "lower optimizer.lr or raise optimizer.warmup_steps, and train in another folder"
            init = "" if self.run.done else self.run.config.inputs.init
            if init and not self._updated:
                remedy = f"not one was, so the model of inputs.init={init} is of no use here; give another"
            raise ValueError(
                f"the gradients of {self._longest} steps in a row are not finite (metrics.jsonl lists them with their "
                f"examples): {remedy}"
            )

    def _figures(self) -> dict[str, Any]:
        """Mean loss, the last gradient norm, tokens a second, seconds waited for data, peak memory in GB of this rank,
        and which steps were skipped because their gradient was not finite. Where the peak of the device is known also
        the share of it that is used: in all, and by the backbone without the head; what is computed a second time in
        backward counts for nothing.

        Skipped steps changed nothing and are left out of the mean; each is listed with the numbers of its examples in
        the run's data order.
        """
        losses = self.topology.sum_over_data(torch.stack(self._losses).double()).tolist()
        norms = [float(norm) for norm in self._norms]
        seconds = time.monotonic() - self._since
        finite = [math.isfinite(norm) for norm in norms]
        good = [loss for loss, is_good in zip(losses, finite, strict=True) if is_good]
        examples = self.run.config.train.global_batch
        tokens = examples * self.run.data.train.length * len(losses)
        line: dict[str, Any] = {
            "loss": sum(good) / len(good) if good else None,
            "grad_norm": norms[-1] if finite[-1] else None,
            "tokens_per_s": round(tokens / seconds, 1),
            "data_wait_s": round(self._data_wait, 4),
            "memory_gb": round(peak_memory(self.topology.device) / 1e9, 3),
        }
        if self._peak and self._flops:
            able = self._peak * self.topology.world * seconds / len(losses)
            useful = self._flops.backbone + self._flops.teacher
            line["mfu"], line["mfu_backbone"] = (useful + self._flops.head) / able, useful / able
        if self._save_stall:
            line["save_stall_s"], self._save_stall = round(self._save_stall, 4), 0.0
        skipped = [step for step, is_good in zip(self._steps, finite, strict=True) if not is_good]
        if skipped:
            line["skipped"] = [{"step": s, "examples": [(s - 1) * examples, s * examples - 1]} for s in skipped]
        for is_good in finite:
            self._in_a_row = 0 if is_good else self._in_a_row + 1
            self._longest = max(self._longest, self._in_a_row)
            self._updated |= is_good
        self._restart()
        return line

    def validation(self, done: int, found: Perplexity) -> float | None:
        """Tell what a validation gave; return its perplexity, None if no float holds it."""
        values = found.to_dict()
        names = {"ppl": "valid_ppl_raw", "nats": "valid_nelbo_raw"}
        self._write({"step": done} | {names[n] + end: values[n + end] for n in names for end in ("", "_se")})
        return values["ppl"]

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(line)

    def close(self) -> None:
        """Close file and mirror, of a run that ends in good order."""
        if self._log is not None:
            self._log.close()


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
