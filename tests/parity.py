"""Training runs to compare across splits: every parameter random, no warm-up, clipping active, an odd vocabulary."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imdm_dist.checkpoint.read import newest_checkpoint
from imdm_dist.config import (
    Config,
    CouplingConfig,
    DataConfig,
    EngineConfig,
    InputsConfig,
    MaskConfig,
    OptimizerConfig,
    TrainConfig,
)
from imdm_dist.model.dit import DitConfig
from imdm_dist.objectives.nelbo import NelboConfig
from imdm_dist.objectives.redi import RediConfig
from imdm_dist.objectives.sdtt import SdttConfig
from imdm_dist.parallel.environment import LaunchedProcess
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics

STEPS = 20
STAGES = ("teacher", "sdtt", "redi")


@dataclass(frozen=True)
class Split:
    """How the work of a run is divided."""

    zero: int = 0
    tp: int = 1
    world: int = 1
    micro_batch: int = 0
    more: tuple[tuple[str, Any], ...] = ()
    """Other engine settings."""

    @property
    def name(self) -> str:
        """For folders and test ids."""
        name = f"zero{self.zero}-tp{self.tp}-world{self.world}"
        name += f"-mb{self.micro_batch}" if self.micro_batch else ""
        return name + "".join(f"-{key}" for key, _ in self.more)

    @property
    def engine(self) -> EngineConfig:
        """As settings."""
        return EngineConfig(
            zero_stage=self.zero,  # type: ignore[arg-type]
            tensor_parallel=self.tp,
            micro_batch=self.micro_batch,
            loss_chunk_rows=24,
            **dict(self.more),
        )


def matrix() -> list[Split]:
    """ZeRO 0 to 3, tensor parallel 1 and 2, world 1, 2 and 4, where they go together."""
    return [Split(zero, tp, world) for world in (1, 2, 4) for tp in (1, 2) if world % tp == 0 for zero in range(4)]


def config_of(home: Path, stage: str, split: Split, steps: int = STEPS, dropout: float = 0.0) -> Config:
    """Settings of a run. Four heads, so that each of two tensor-parallel ranks has more than one."""
    sdtt = SdttConfig(rounds=2, steps_per_round=steps // 2, grid=4)
    return Config(
        inputs=InputsConfig(init=str(home / "start"), init_weights="raw", coupling=str(home / "coupling")),
        model=DitConfig(
            size="custom",
            hidden_dim=32,
            n_blocks=2,
            n_heads=4,
            cond_dim=16,
            dropout=dropout,
            mask=MaskConfig(kind="infinite", noise_dim=8, output_bias=True),
        ),
        data=DataConfig(
            source="files",
            train=(str(home / "text.txt"),),
            valid=(str(home / "text.txt"),),
            bpe_size=300,
            length=10,
            cache=str(home / "data"),
        ),  # fmt: skip
        objective={"teacher": NelboConfig(), "sdtt": sdtt, "redi": RediConfig()}[stage],
        # A small epsilon would let AdamW blow the rounding errors of gradients that are zero up to whole steps.
        optimizer=OptimizerConfig(lr=5e-4, eps=1e-6, warmup_steps=0, clip=0.5, ema_decay=0.9),
        engine=split.engine,
        train=TrainConfig(
            steps=0 if stage == "sdtt" else steps, global_batch=8, log_every=1, save_every=steps // 4, keep_last=9
        ),
        coupling=CouplingConfig(pairs=24, shards=2, steps=8, batch=12),
    )


def prepare(home: Path, coupling: bool = True) -> None:
    """Text, a start whose every parameter is random (an odd vocabulary of 301), and a coupling if wanted."""
    from imdm_dist.chain.rollouts import generate_coupling

    words = "".join(f"line {i} has the words {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(300))
    (home / "text.txt").write_text(words)
    base = config_of(home, "teacher", Split())
    base = replace(base, inputs=InputsConfig())
    train(replace(base, train=replace(base.train, steps=1)), home / "start")
    randomise(home / "start" / "step-00000001")
    if coupling:
        generate_coupling(base, home / "start", home / "coupling", workers=1)


def randomise(checkpoint: Path) -> None:
    """Give every weight of a checkpoint random values: zero-initialised parts would hide wrong splits."""
    import json

    from safetensors.torch import load_file, save_file

    from imdm_dist.files import hash_json, sha256_file

    generator = torch.Generator().manual_seed(3)
    state = json.loads((checkpoint / "state.json").read_text())
    for quantity in ("weights", "ema"):
        file = checkpoint / f"{quantity}.safetensors"
        tensors = load_file(file)
        for name, tensor in sorted(tensors.items()):
            tensors[name] = torch.randn(tensor.shape, generator=generator) * (1 / math.sqrt(tensor.shape[-1]))
            if tensor.ndim == 1:
                tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.3 + (1.0 if "norm" in name else 0.0)
        save_file(tensors, file)
        state["files"][file.name] = sha256_file(file)
    del state["checksum"]
    (checkpoint / "state.json").write_text(json.dumps(state | {"checksum": hash_json(state)}))


def run(place: LaunchedProcess, config: Config, folder: str) -> bool:
    """Train in one process of a world."""
    return train(config, folder, place)


@dataclass(frozen=True)
class Curve:
    """What a run leaves to compare."""

    losses: list[float]
    norms: list[float]
    tensors: dict[str, dict[str, torch.Tensor]]
    """By quantity and name, in full shape."""


def curve(folder: Path, quantities: tuple[str, ...] = ("weights", "ema", "exp_avg", "exp_avg_sq")) -> Curve:
    """Read a run's metrics and last checkpoint."""
    lines = [line for line in read_metrics(folder) if "loss" in line]
    found = newest_checkpoint(folder)
    assert found is not None
    tensors = {kind: {name: found.full(kind, name) for name in found.names(kind)} for kind in quantities}
    return Curve([line["loss"] for line in lines], [line["grad_norm"] for line in lines], tensors)


def difference(ours: Curve, theirs: Curve) -> dict[str, float]:
    """Largest relative difference of losses and gradient norms, largest absolute one of the EMA."""
    return {
        "loss": relative(ours.losses, theirs.losses),
        "grad_norm": relative(ours.norms, theirs.norms),
        "ema": max(float((ours.tensors["ema"][name] - ema).abs().max()) for name, ema in theirs.tensors["ema"].items()),
    }


def relative(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference of two series."""
    assert len(ours) == len(theirs) > 0
    return max(abs(x - y) / abs(y) for x, y in zip(ours, theirs, strict=True))


def bits_equal(ours: Curve, theirs: Curve) -> bool:
    """Whether two runs left the same bits."""
    return ours.tensors.keys() == theirs.tensors.keys() and all(
        ours.tensors[kind].keys() == named.keys()
        and all(torch.equal(ours.tensors[kind][name], tensor) for name, tensor in named.items())
        for kind, named in theirs.tensors.items()
    )


def middle(steps: int) -> int:
    """Where runs are cut off: with SDTT inside the second of two rounds, whose teacher is the first round's student."""
    return steps * 3 // 4


def cut_off(whole: Path, broken: Path, steps: int = STEPS) -> None:
    """Make `broken` the run that `whole` was in its middle."""
    name = f"step-{middle(steps):08d}"
    broken.mkdir()
    shutil.copytree(whole / name, broken / name)
