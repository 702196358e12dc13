"""What forward keeps for backward, in bytes, tensor by tensor as `imdm_dist.model.dit.model` makes them.

The counts follow the code, not a fit: `tests/planning/test_plan.py` compares them with the tensors that autograd saves.
Tensors of a few numbers a row (statistics of norms, indices, angles) are left out, but for what attention keeps.

Shape suffixes in comments: T tokens of a micro-batch, D hidden width, H heads, L length, M masked rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imdm_dist.config.schema import Config
from imdm_dist.objectives.objective import objective_of

Device = Literal["cuda", "cpu"]
FP32 = 4
"""Of the residual stream too, under any precision."""


@dataclass(frozen=True)
class Widths:
    """Bytes of one number."""

    weight: int
    """Of weights as forward has them, and of gradients."""
    product: int
    """Of what matrix products take and give."""
    product_input: int
    """Of a norm's output as a tensor-parallel or plain linear layer keeps it."""


def widths(config: Config) -> Widths:
    """The widths that engine.precision gives."""
    if config.engine.precision == "bf16":
        return Widths(2, 2, 2)
    if config.engine.precision == "autocast":
        # megatron-core's layers keep what they are given; torch's keep what autocast made of it.
        return Widths(4, 2, 4 if config.engine.tensor_parallel > 1 else 2)
    return Widths(4, 4, 4)


@dataclass(frozen=True)
class Activations:
    """Bytes that one rank keeps between forward and backward, and for a moment within."""

    blocks: int
    """Kept by the blocks until backward: all their tensors, or with recompute their inputs."""
    block: int
    """All tensors of one block: with recompute there in backward, beside the inputs of the others."""
    moment: int
    """Gradients within a block, beyond what its backward has freed by then."""
    masks: int
    """Kept by the noise MLP."""
    rows: int
    """Kept of masked rows: hidden states, the norm of the head, a teacher's hidden states."""
    loss_forward: int
    """Logits and what the loss makes of them, for one chunk of rows, at the worst moment of forward."""
    loss_backward: int
    """The same in backward."""

    @property
    def kept(self) -> int:
        """What is held when the loss begins."""
        return self.blocks + self.masks


def activations(config: Config, vocab_size: int, micro_batch: int, masked_share: float, device: Device) -> Activations:
    """Count them for one micro-batch.

    Args:
        micro_batch: examples in the forward pass.
        masked_share: share of their positions that are masked.
    """
    model, tp, w = config.model, config.engine.tensor_parallel, widths(config)
    tokens = micro_batch * config.data.length
    masked = round(tokens * masked_share)
    block = tokens * (model.hidden_dim * _block_per_channel(config, device) + _attention_extra(config, device))
    inputs = tokens * model.hidden_dim * FP32
    recompute = config.engine.recompute
    masks = 0
    if model.mask.kind == "infinite":
        # The noise, and the hidden layer before and after GELU.
        masks = masked * (model.mask.noise_dim * w.product_input + 8 * model.hidden_dim * w.product // tp)
    chunk = min(masked, config.engine.loss_chunk_rows)
    logits = chunk * -(-vocab_size // tp)
    forward, backward = _loss_bytes(config)
    scores = 0
    if not fused_attention(config, device):
        scores = 3 * tokens * config.data.length * model.n_heads * (FP32 if model.attention_soft_cap else w.product)
    return Activations(
        blocks=int(model.n_blocks * (inputs if recompute else block)),
        block=int(block),
        moment=(tokens * model.hidden_dim * 4 * w.product + scores) // tp,
        masks=masks,
        rows=masked * model.hidden_dim * _per_row(config) + chunk * model.hidden_dim * _per_chunk_row(config),
        loss_forward=logits * forward,
        loss_backward=logits * backward,
    )


def fused_attention(config: Config, device: Device) -> bool:
    """Whether attention runs without the L x L scores: see `Block._attend`."""
    return not config.model.attention_soft_cap and (device == "cuda" or config.engine.precision == "fp32")


def _block_per_channel(config: Config, device: Device) -> float:
    """Bytes that a block keeps for each token and unit of width."""
    w, tp = widths(config), config.engine.tensor_parallel
    # Input in float32, normalised, times weight; then the modulated input of the linear layer.
    norm = 3 * FP32 + w.product_input
    # Fused: qkv, as v is a view of it, rotated q and k, output. Plain: q, k and v made contiguous, output; with a soft
    # cap q and k in float32.
    attention = (6 if fused_attention(config, device) else 4) * w.product / tp
    if config.model.attention_soft_cap:
        attention += 2 * (FP32 - w.product) / tp
    mlp = 8 * w.product / tp  # before and after GELU
    # A branch before its gate, and the mask of dropout: a bool in CUDA's kernel, a number in the CPU's.
    dropout = 0 if config.model.dropout == 0 else 1 if device == "cuda" else w.product
    return 2 * norm + attention + mlp + 2 * (w.product + dropout)


def _attention_extra(config: Config, device: Device) -> float:
    """Bytes that attention keeps for each token beside those of its width."""
    w, heads = widths(config), config.model.n_heads / config.engine.tensor_parallel
    if fused_attention(config, device):
        return heads * FP32  # logarithms of the softmax's sums
    kept = w.product  # what the softmax gives, as the product with v takes it
    if config.model.attention_soft_cap:
        kept += FP32 + (FP32 if w.product != FP32 else 0)  # tanh, and what the softmax gives, in float32
    return heads * config.data.length * kept


def _per_row(config: Config) -> int:
    """Bytes kept for each masked row and unit of width: the gathered hidden state, and a teacher's beside it."""
    return FP32 * objective_of(config.objective).costs(config).heads


def _per_chunk_row(config: Config) -> int:
    """The same for rows whose logits exist: what the head's norm makes of them."""
    return 2 * FP32 + widths(config).product_input


def _loss_bytes(config: Config) -> tuple[int, int]:
    """Bytes for each logit at the worst moments of forward and backward.

    NELBO: forward has logits and log-probabilities; backward log-probabilities, their gradient and that of the
    logits. With tensor parallelism the library works in place in a copy of the logits.
    Two heads: forward has the teacher's logits, log-probabilities of both, their difference, and what the divergence
    makes of them; backward what autograd kept of these and two gradients.
    """
    logit = widths(config).product
    widened = 0 if logit == FP32 else FP32
    if made := objective_of(config.objective).costs(config).kept_logits:
        return logit + made * FP32, made * FP32
    if config.engine.tensor_parallel > 1:
        return logit + widened + FP32, FP32 + 2 * logit
    return logit + widened + FP32, 3 * FP32
