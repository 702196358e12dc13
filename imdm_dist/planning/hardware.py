"""The hardware that a plan is for: GPUs, their memory and their speed."""

from __future__ import annotations

from dataclasses import dataclass

from imdm_dist.config.setting import require
from imdm_dist.planning.activations import Device

USABLE = 0.95
"""Share of a GPU's memory that is counted on: torch's allocator cannot use the gaps between its blocks."""


@dataclass(frozen=True)
class Hardware:
    """What there is to run on."""

    gpus: int = 1
    """Ranks, a GPU each."""
    memory: float = 80e9
    """Bytes of memory of each."""
    gpus_per_node: int = 8
    """Of these on one machine."""
    mfu: float = 0.4
    """Share of the peak that is reached."""
    peak_flops: float = 989e12
    """Operations a second of one GPU at its best, in the precision of the run (H100, bfloat16: 989e12)."""
    device: Device = "cuda"
    """cpu: processes that share a machine's memory; `memory` is then the share of one."""

    def __post_init__(self) -> None:
        for flag, value in (("gpus", self.gpus), ("gpus-per-node", self.gpus_per_node)):
            require(value >= 1, f"--{flag} is {value}: give 1 or more")
        for flag, number in (("gpu-memory", self.memory), ("peak-tflops", self.peak_flops)):
            require(number > 0, f"--{flag} is {number}: give a number above 0")
        require(0 < self.mfu <= 1, f"--mfu is {self.mfu}: give a share in (0, 1]")

    @property
    def usable(self) -> float:
        """Bytes of a rank that are counted on."""
        return self.memory * (USABLE if self.device == "cuda" else 1.0)

    def seconds(self, flops: float) -> float:
        """Time that all GPUs together take."""
        return flops / (self.gpus * self.peak_flops * self.mfu)
