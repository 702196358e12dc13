"""A training run: its optimizer, its engine, what it minimises and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.setting import require, setting


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up, clipping and EMA; the defaults are MDLM's recipe."""

    lr: float = 3e-4
    """Peak learning rate, that of the last warm-up step."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """After the warm-up: constant; cosine down to lr_min; wsd (warm-up, stable, decay): constant, then linear down."""
    decay_steps: int = 0
    """Steps of the decay at the end of a wsd run; 0 is a tenth of the run."""
    lr_min: float = 0.0
    """Rate that cosine and wsd end with."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: int = 2500
    """Steps over which the rate rises linearly, the first of w with lr/w (MDLM's first has 0: it is a step behind)."""
    clip: float = 1.0
    """Largest global gradient norm; 0 is off."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, with MDLM's warm start min(decay, (1+n)/(10+n))."""
    kind: Literal["torch", "deepspeed", "apex"] = "torch"
    """Whose AdamW: torch's fused one, or the fused one of DeepSpeed or NVIDIA apex, where it imports and agrees."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, f"optimizer.lr is {self.lr}: set it above 0")
        require(all(0 <= beta < 1 for beta in self.betas), f"optimizer.betas are {self.betas}: set both in [0, 1)")
        require(self.eps > 0, f"optimizer.eps is {self.eps}: set it above 0")
        require(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}: set it to 0 or above")
        require(
            0 <= self.lr_min <= self.lr,
            f"optimizer.lr_min is {self.lr_min}: set it from 0 to optimizer.lr={self.lr}",
        )
        for name, reads in (("lr_min", ("cosine", "wsd")), ("decay_steps", ("wsd",))):
            require(
                not getattr(self, name) or self.schedule in reads,
                f"optimizer.{name} is read by optimizer.schedule={' and '.join(reads)}, which is {self.schedule}: "
                "set the one or leave the other out",
            )
        for name in ("warmup_steps", "decay_steps"):
            require(getattr(self, name) >= 0, f"optimizer.{name} is {getattr(self, name)}: set it to 0 or more")
        require(self.clip >= 0, f"optimizer.clip is {self.clip}: set it to 0 (off) or above")
        require(0 <= self.ema_decay < 1, f"optimizer.ema_decay is {self.ema_decay}: set it in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a step is run."""

    kind: str = setting("deepspeed", shapes=False)
    """What runs it: deepspeed; plain, the reference in plain torch, without ZeRO; or a module:Class of your own."""
    zero_stage: Literal[0, 1, 2, 3] = setting(0, shapes=False)
    """What ZeRO splits: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    precision: Literal["fp32", "autocast", "bf16"] = "fp32"
    """fp32; autocast: fp32 weights, bf16 products; bf16: bf16 weights, fp32 masters (needs zero_stage >= 1)."""
    micro_batch: int = setting(0, shapes=False)
    """Most examples in one forward pass; 0 takes the whole share of a rank (no accumulation)."""
    loss_chunk_rows: int = setting(4096, shapes=False)
    """Most rows whose logits exist at a time; a micro-batch of more tokens is recomputed in chunks in backward."""
    tensor_parallel: int = setting(1, shapes=False)
    """Ranks that share each layer; the others of the world are data-parallel."""
    recompute: bool = setting(False, shapes=False)
    """Activation checkpointing: keep only each block's input and compute the block again in backward."""
    compile: bool = setting(False, shapes=False)
    """torch.compile each block."""
    layer_norm: Literal["torch", "apex"] = setting("torch", shapes=False)
    """Whose LayerNorm: torch's, or NVIDIA apex's fused one, where it imports and agrees."""
    offload_optimizer: bool = setting(False, shapes=False)
    """Keep optimizer state in host memory (needs zero_stage >= 1)."""

    def __post_init__(self) -> None:
        require(self.tensor_parallel >= 1, f"engine.tensor_parallel is {self.tensor_parallel}: set it to 1 or more")
        require(
            not self.offload_optimizer or self.zero_stage >= 1,
            "engine.offload_optimizer is done by ZeRO: set engine.zero_stage=1 or more",
        )
        require(self.micro_batch >= 0, f"engine.micro_batch is {self.micro_batch}: set it to 0 (all) or more")
        require(self.loss_chunk_rows > 0, "engine.loss_chunk_rows must be 1 or more")
        require(
            self.precision != "bf16" or self.zero_stage >= 1,
            "engine.precision=bf16 has its fp32 masters in ZeRO: set engine.zero_stage=1 or engine.precision=autocast",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a training run minimises; each kind has its own settings."""

    kind: str
    """The kind: one of the house's, or the place of your own objective on PYTHONPATH."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    steps: int = setting(0, changes_on_resume=True)
    """Optimizer steps; 0 where the objective's own settings say how many."""
    global_batch: int = 512
    """Examples per optimizer step over all ranks."""
    seed: int = 0
    """Run seed: data order, times, masks and noise are functions of (seed, step, sample index)."""
    log_every: int = setting(50, shapes=False)
    """Steps between two lines of metrics.jsonl."""
    save_every: int = setting(1000, shapes=False)
    """Steps between two checkpoints; the last step is always saved."""
    keep_last: int = setting(2, shapes=False)
    """Newest checkpoints kept."""
    keep_every: int = setting(0, shapes=False)
    """Checkpoints at multiples of this many steps are kept for good; 0 keeps none."""
    keep_best: bool = setting(False, shapes=False)
    """Keep the checkpoint with the lowest validation perplexity (needs valid_every)."""
    async_save: bool = setting(True, shapes=False)
    """Write checkpoints from a copy while training goes on; off writes from live memory while training waits."""
    resume: str = setting("auto", shapes=False)
    """auto: go on from the newest whole checkpoint of the run folder; none: the folder must have none; or a path."""
    time_budget: float = setting(0.0, shapes=False)
    """Minutes after which the run saves and stops, to be resumed later; 0 is no limit."""
    hang_minutes: float = setting(30.0, shapes=False)
    """Minutes without a sign of life of the loop after which the run ends with the stacks of all ranks; 0 is never."""
    max_skipped: int = setting(10, shapes=False)
    """Steps in a row whose gradient is not finite, each skipped, after which the run stops."""
    deterministic: bool = setting(False, shapes=False)
    """Same bits at every run on the same machine, also on GPUs, at some cost in speed."""
    check_replicas_every: int = setting(0, shapes=False)
    """Steps between two comparisons of what must be equal across ranks; 0 is never. For debugging."""
    valid_every: int = setting(0, shapes=False)
    """Steps between two validations; 0 is never."""
    valid_rows: int = setting(1024, shapes=False)
    """Validation rows used."""
    wandb: Literal["off", "offline", "online"] = setting("off", shapes=False)
    """Mirror metrics.jsonl to Weights & Biases."""

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"train.steps is {self.steps}: set it to 0 or more")
        for name in ("global_batch", "log_every", "save_every", "keep_last", "valid_rows"):
            require(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}: set it to 1 or more")
        for name in ("valid_every", "keep_every", "time_budget", "hang_minutes", "check_replicas_every"):
            require(getattr(self, name) >= 0, f"train.{name} is {getattr(self, name)}: set it to 0 (never) or more")
        require(self.max_skipped >= 1, f"train.max_skipped is {self.max_skipped}: set it to 1 or more")
        require(not self.keep_best or self.valid_every > 0, "train.keep_best needs train.valid_every: set it above 0")
        require(0 <= self.seed < 2**63, f"train.seed is {self.seed}: set it in [0, 2**63)")
