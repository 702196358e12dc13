"""Every setting of the project, as frozen dataclasses.

Precedence is: the defaults below < a YAML file < ``key.sub=value`` on the command line
(`imdm_dist.config.load`). A section is handed to the code it configures and to no other, so
what a function depends on can be read off its signature. The string below a field is its
documentation; `describe` in `imdm_dist.config.load` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imdm_dist.config.resources import ResourcesConfig

NoisePolicy = Literal["posterior", "fixed", "fresh"]
Weights = Literal["ema", "raw"]

MODEL_SIZES: dict[str, tuple[int, int, int]] = {
    # name: (hidden_dim, n_blocks, n_heads), the sizes of public MDLM and SDTT checkpoints
    "tiny": (512, 8, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1536, 24, 16),
}


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds: for settings a user can get wrong."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What stands at a masked position (arXiv 2605.10518, Eq. 15 and Table 11)."""

    kind: Literal["single", "infinite", "finite"] = "single"
    """single: the mask token of MDM; infinite: plus an MLP of noise; finite: plus one of n_states rows."""
    law: Literal["uniform", "gaussian"] = "uniform"
    """Law of the noise of an infinite mask: uniform on (-1, 1) or standard normal, per dimension."""
    noise_dim: int = 768
    """Dimensions of the noise vector of one position (paper: 768 on LM1B, 2048 on OpenWebText)."""
    scale: float = 1.0
    """Factor on the noise."""
    output_bias: bool = False
    """Whether the output layer of the noise MLP has a bias (the authors' code has none)."""
    n_states: int = 6144
    """Mask states of a finite mask."""

    def __post_init__(self) -> None:
        require(self.noise_dim > 0, f"model.mask.noise_dim is {self.noise_dim}: set it to 1 or more")
        require(self.scale > 0, f"model.mask.scale is {self.scale}: set it above 0")
        require(self.n_states > 0, f"model.mask.n_states is {self.n_states}: set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The DiT backbone of MDLM and the kind of its mask."""

    size: Literal["tiny", "small", "medium", "large", "custom"] = "small"
    """A named size, or custom: then hidden_dim, n_blocks and n_heads must be given."""
    hidden_dim: int = 0
    """Width d of the residual stream; 0 takes it from size."""
    n_blocks: int = 0
    """Transformer blocks; 0 takes it from size."""
    n_heads: int = 0
    """Attention heads; 0 takes it from size."""
    cond_dim: int = 128
    """Width of the (constant) time embedding that feeds adaLN."""
    dropout: float = 0.1
    """Dropout on both residual branches while training."""
    attention_soft_cap: float = 0.0
    """Attention scores are squashed to (-cap, cap) by tanh; 0 is off (the authors' LM1B runs use 50)."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """The mask embedding."""

    def __post_init__(self) -> None:
        if self.size != "custom":
            for name, value in zip(("hidden_dim", "n_blocks", "n_heads"), MODEL_SIZES[self.size], strict=True):
                given = getattr(self, name)
                require(
                    given in (0, value),
                    f"model.{name}={given} does not go with model.size={self.size} ({value}): set model.size=custom",
                )
                object.__setattr__(self, name, value)
        for name in ("hidden_dim", "n_blocks", "n_heads", "cond_dim"):
            require(getattr(self, name) > 0, f"model.{name} is {getattr(self, name)}: set it to 1 or more")
        require(
            self.hidden_dim % self.n_heads == 0 and (self.hidden_dim // self.n_heads) % 2 == 0,
            f"model.hidden_dim={self.hidden_dim} must be an even multiple of model.n_heads={self.n_heads}",
        )
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}: set it in [0, 1)")
        require(self.attention_soft_cap >= 0, "model.attention_soft_cap is negative: set it to 0 (off) or above")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Text, tokenizer and packing."""

    root: str = ""
    """Folder that relative train and valid files start from; empty: the environment's IMDM_DATA, else where you are."""
    source: Literal["embedded", "files", "hub", "synthetic"] = "embedded"
    """embedded: English that CPython carries; files: train/valid below; hub: a data set's name; synthetic: {00, 11}."""
    train: tuple[str, ...] = ()
    """Training files (.txt, .jsonl, .parquet, also .gz; globs allowed), or one hub split such as train[:-100000]."""
    valid: tuple[str, ...] = ()
    """Validation files or split."""
    name: str = ""
    """Name of the hub data set when source=hub."""
    text_field: str = "text"
    """Column or JSON field that holds the text."""
    tokenizer: str = "embedded"
    """embedded: a byte-level BPE trained on the training text; else a local folder or a hub name."""
    bpe_size: int = 1024
    """Vocabulary of the BPE that tokenizer=embedded trains (mask not counted)."""
    packing: Literal["document", "sentence"] = "document"
    """document: as MDLM packs OpenWebText; sentence: as MDLM and DUO pack LM1B."""
    detokenizer: Literal["none", "lm1b"] = "none"
    """Undo the tokenisation of a corpus before ours."""
    length: int = 32
    """Tokens in a training example, begin and end tokens included."""
    cache: str = "runs/data"
    """Folder of the packed token files; a file is built once and shared by all runs."""

    def __post_init__(self) -> None:
        require(self.length >= 1, f"data.length is {self.length}: set it to 1 or more")
        require(self.bpe_size >= 300, f"data.bpe_size is {self.bpe_size}: a byte-level BPE needs 300 or more")
        require(
            self.source != "files" or bool(self.train and self.valid),
            "data.source=files needs data.train and data.valid: give files of each, e.g. data.train=[train.txt]",
        )
        require(self.source != "hub" or bool(self.name), "data.source=hub needs data.name, e.g. data.name=openwebtext")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up to a constant rate, clipping and EMA (MDLM's recipe)."""

    lr: float = 3e-4
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: int = 2500
    """Steps over which the rate rises linearly from 0."""
    clip: float = 1.0
    """Largest global gradient norm; 0 is off."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, with MDLM's warm start min(decay, (1+n)/(10+n))."""
    kind: Literal["torch", "deepspeed", "apex"] = "torch"
    """Whose AdamW: torch's fused one, or the fused one of DeepSpeed or NVIDIA apex, where it imports and agrees."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optimizer.lr is {self.lr}: set it above 0")
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps is {self.warmup_steps}: set it to 0 or more")
        require(self.clip >= 0, f"optimizer.clip is {self.clip}: set it to 0 (off) or above")
        require(0 <= self.ema_decay < 1, f"optimizer.ema_decay is {self.ema_decay}: set it in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the DeepSpeed engine runs a step."""

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


@dataclass(frozen=True, kw_only=True)
class CouplingConfig:
    """Pairs (start, noise seed, result) made by rollouts of a teacher."""

    pairs: int = 6400
    """Pairs in all (paper: 100,000)."""
    shards: int = 64
    """Files they are split over; a shard is the unit of work of a worker."""
    steps: int = 1024
    """Sampling steps N of a rollout."""
    kind: Literal["perturbed", "plain"] = "perturbed"
    """perturbed: start from real text masked at a rate t ~ U(0, 1); plain: from masks alone."""
    noise_policy: NoisePolicy = "posterior"
    """Mask noise between the steps of a rollout (the authors' code: posterior; fixed ties text to its noise)."""
    batch: int = 64
    """Sequences rolled out together; part of what a shard's bytes depend on."""
    seed: int = 1
    """Coupling seed; a pair's own seed is derived from it and the pair's index."""
    weights: Weights = "ema"
    """Which weights of the teacher roll out."""

    def __post_init__(self) -> None:
        for name in ("pairs", "shards", "steps", "batch"):
            require(getattr(self, name) >= 1, f"coupling.{name} is {getattr(self, name)}: set it to 1 or more")
        require(self.pairs >= self.shards, f"coupling.pairs={self.pairs} is fewer than coupling.shards={self.shards}")
        require(0 <= self.seed < 2**63, f"coupling.seed is {self.seed}: set it in [0, 2**63)")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Samples drawn from a model, and what is measured on them."""

    samples: int = 256
    """Sequences per step count (paper: 1024)."""
    steps: tuple[int, ...] = (2, 4, 8, 16)
    """Step counts N."""
    noise_policy: NoisePolicy = "posterior"
    """Mask noise between two sampling steps."""
    weights: Weights = "ema"
    """Which weights are evaluated."""
    seeds: tuple[int, ...] = (42,)
    """Sampling seeds; figures are given per seed and as their mean."""
    batch: int = 64
    """Sequences sampled together."""

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"evaluation.samples is {self.samples}: set it to 1 or more")
        require(self.batch >= 1, f"evaluation.batch is {self.batch}: set it to 1 or more")
        require(bool(self.steps) and min(self.steps, default=0) >= 1, "evaluation.steps must be numbers of 1 or more")
        require(bool(self.seeds), "evaluation.seeds is empty: give one or more")


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """The small causal language model that scores samples where no GPT-2-large is to be had."""

    hidden_dim: int = 256
    """Width."""
    n_blocks: int = 4
    """Transformer blocks."""
    n_heads: int = 4
    """Attention heads."""
    steps: int = 2000
    """Optimizer steps."""
    batch: int = 64
    """Rows per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    dropout: float = 0.1
    """Dropout while training."""
    seed: int = 0
    """Seed of its initial weights, data order and dropout."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "n_blocks", "n_heads", "steps", "batch"):
            require(getattr(self, name) >= 1, f"evaluator.{name} is {getattr(self, name)}: set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """What a stage starts from: outputs of earlier stages."""

    init: str = ""
    """Run folder or checkpoint whose weights training starts from (SDTT: also the first teacher); empty is random."""
    init_weights: Weights = "ema"
    """Which of its weights (the authors start SDTT and ReDi from EMA weights)."""
    coupling: str = ""
    """Coupling folder that ReDi trains on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of one stage."""

    inputs: InputsConfig = field(default_factory=InputsConfig)

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    coupling: CouplingConfig = field(default_factory=CouplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
