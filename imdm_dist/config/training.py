"""A training run: its optimizer, its engine, what it minimises and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.names import NoisePolicy, Weights
from imdm_dist.config.require import require


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

    kind: str = "deepspeed"
    """What runs it: deepspeed; plain, the reference in plain torch, without ZeRO; or a module:Class of your own."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What ZeRO splits: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    precision: Literal["fp32", "autocast", "bf16"] = "fp32"
    """fp32; autocast: fp32 weights, bf16 products; bf16: bf16 weights, fp32 masters (needs zero_stage >= 1)."""
    micro_batch: int = 0
    """Most examples in one forward pass; 0 takes the whole share of a rank (no accumulation)."""
    loss_chunk_rows: int = 4096
    """Most rows whose logits exist at a time; a micro-batch of more tokens is recomputed in chunks in backward."""
    tensor_parallel: int = 1
    """Ranks that share each layer; the others of the world are data-parallel."""
    recompute: bool = False
    """Activation checkpointing: keep only each block's input and compute the block again in backward."""
    compile: bool = False
    """torch.compile each block."""
    layer_norm: Literal["torch", "apex"] = "torch"
    """Whose LayerNorm: torch's, or NVIDIA apex's fused one, where it imports and agrees."""
    offload_optimizer: bool = False
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
    """What a training run minimises."""

    kind: Literal["nelbo", "sdtt", "redi"] = "nelbo"
    """nelbo: Eq. 5/14 on data; sdtt: self-distillation through time; redi: Eq. 14 on a coupling."""
    divergence: Literal["reverse_kl", "forward_kl", "total_variation", "mse"] = "reverse_kl"
    """SDTT: reverse_kl is KL(student || teacher); mse is on log-probabilities."""
    rounds: int = 7
    """SDTT rounds; each doubles the step and makes the student the next teacher."""
    steps_per_round: int = 10_000
    """SDTT optimizer steps in a round; train.steps is then rounds * steps_per_round."""
    grid: int = 1024
    """SDTT: the first round's step is 1/grid."""
    noise_policy: NoisePolicy = "fixed"
    """SDTT: mask noise inside the teacher's two-step rollout."""
    teacher_weights: Weights = "raw"
    """SDTT: which weights of the student become the teacher at a round's end (the authors: raw)."""
    redraw_noise: bool = False
    """ReDi control experiment: fresh noise every epoch instead of the pair's own, which undoes the method."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"objective.rounds is {self.rounds}: set it to 1 or more")
        require(self.steps_per_round >= 1, f"objective.steps_per_round is {self.steps_per_round}: set it to 1 or more")
        require(
            self.grid >= 2**self.rounds,
            f"objective.grid={self.grid} cannot be halved objective.rounds={self.rounds} times: raise it",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    steps: int = 0
    """Optimizer steps; SDTT takes rounds * steps_per_round and wants 0 here."""
    global_batch: int = 512
    """Examples per optimizer step over all ranks."""
    seed: int = 0
    """Run seed: data order, times, masks and noise are functions of (seed, step, sample index)."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep_last: int = 2
    """Newest checkpoints kept."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps are kept for good; 0 keeps none."""
    keep_best: bool = False
    """Keep the checkpoint with the lowest validation perplexity (needs valid_every)."""
    async_save: bool = True
    """Write checkpoints from a copy while training goes on; off writes from live memory while training waits."""
    resume: str = "auto"
    """auto: go on from the newest whole checkpoint of the run folder; none: the folder must have none; or a path."""
    time_budget: float = 0.0
    """Minutes after which the run saves and stops, to be resumed later; 0 is no limit."""
    hang_minutes: float = 30.0
    """Minutes without a sign of life of the loop after which the run ends with the stacks of all ranks; 0 is never."""
    max_skipped: int = 10
    """Steps in a row whose gradient is not finite, each skipped, after which the run stops."""
    deterministic: bool = False
    """Same bits at every run on the same machine, also on GPUs, at some cost in speed."""
    check_replicas_every: int = 0
    """Steps between two comparisons of what must be equal across ranks; 0 is never. For debugging."""
    valid_every: int = 0
    """Steps between two validations; 0 is never."""
    valid_rows: int = 1024
    """Validation rows used."""
    wandb: Literal["off", "offline", "online"] = "off"
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
