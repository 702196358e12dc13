"""What a run tells while it trains: metrics.jsonl, its mirror, the progress bar and the heartbeat's figures."""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from imdm_dist.objectives.flops import step_flops
from imdm_dist.parallel.topology import Topology
from imdm_dist.perplexity import Perplexity
from imdm_dist.training.heartbeat import Pulse
from imdm_dist.training.meter import Meter
from imdm_dist.training.metrics import MetricsLog
from imdm_dist.training.setup import Run
from imdm_dist.training.wandb_sync import Mode


class Record:
    """Every rank keeps one, for its figures are sums over ranks; rank 0 writes.

    Args:
        pulse: is told the figures of each interval.
        mirror: see `MetricsLog`.
        about: what the mirror shows as the run's configuration.
    """

    def __init__(self, run: Run, topology: Topology, pulse: Pulse, mirror: Mode, about: dict[str, Any]) -> None:
        config, first = run.config, topology.first
        self.meter = Meter(
            config.train.global_batch,
            run.data.train.length,
            topology,
            step_flops(config, run.data.train.vocab_size, run.cut.micro_batch),
            config.train.max_skipped,
            init="" if run.done else config.inputs.init,
        )
        self._pulse = pulse
        self._log = MetricsLog(run.folder, run.done, mirror, about) if first else None
        settings: dict[str, Any] = {"desc": run.folder.name, "unit": "step", "mininterval": 1.0, "disable": not first}
        self._bar = tqdm(total=run.last, initial=run.done, **settings)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, done: int, loss: torch.Tensor, grad_norm: torch.Tensor | float, data_wait: float) -> None:
        """Note a step; nothing is read from the device."""
        self.meter.add(done, loss, grad_norm, data_wait)
        self._bar.update()

    def interval(self, done: int, more: dict[str, Any], finished: bool) -> None:
        """Tell what the steps since the last call gave.

        Args:
            more: what the line holds besides.

        Raises:
            ValueError: see `Meter.check`.
        """
        line = {"step": done, **self.meter.lap(), **more}
        self._write(line)
        self._pulse.record(line["loss"], line["tokens_per_s"])
        self._bar.set_postfix_str(console(line))
        self.meter.check(finished)

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
        """Close the file and the mirror, of a run that came to its end."""
        if self._log is not None:
            self._log.close()


def console(line: dict[str, Any]) -> str:
    """A line of metrics for the progress bar."""
    loss = "skipped" if line["loss"] is None else f"{line['loss']:z.4f}"
    norm = "not finite" if line["grad_norm"] is None else f"{line['grad_norm']:.2f}"
    mfu = f", MFU {line['mfu']:.0%}" if "mfu" in line else ""
    return (
        f"loss {loss}, norm {norm}, lr {line['lr']:.1e}, {line['tokens_per_s'] / 1000:.1f}k tok/s{mfu}, "
        f"{line['memory_gb']:.1f} GB, data wait {line['data_wait_s']:.1f} s"
    )
