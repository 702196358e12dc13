"""Activation memory: what forward keeps for backward, and peaks beside it, measured with torch's FakeTensorMode.

The run's own model and its own loss go forward and backward in torch's FakeTensorMode, and every storage that comes
and goes is noted, so the figures are right for any family of backbones, mask and objective. Of blocks that are all
alike two are run: each further one keeps what the second keeps.

A machine without a GPU plans for one: float16 stands for bfloat16 then, which has the same width and, on a CPU too,
the fused attention of a GPU. With tensor parallelism the shapes are those of one rank's part; what collectives copy is
left out.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imdm_dist.config.data import DataConfig
from imdm_dist.config.schema import Config
from imdm_dist.model import Backbone
from imdm_dist.model.fake_tensors import fake_backbone
from imdm_dist.objectives.dry_run import dry_run, even_batch
from imdm_dist.objectives.objective import build_objective, objective_of
from imdm_dist.training.blocks import prepare_blocks

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Held:
    """Bytes at one moment, weights and their gradients not counted."""

    activations: int
    copies: int
    """Of weights, made by autocast."""

    def __add__(self, other: Held) -> Held:
        return Held(self.activations + other.activations, self.copies + other.copies)

    def __sub__(self, other: Held) -> Held:
        return Held(self.activations - other.activations, self.copies - other.copies)

    def __mul__(self, count: float) -> Held:
        return Held(round(self.activations * count), round(self.copies * count))


@dataclass(frozen=True)
class Activations:
    """What one rank holds beside weights and their gradients."""

    kept: int
    """Bytes that the backbone keeps for backward."""
    forward: Held
    """When forward of the loss holds most."""
    loss: Held
    """When its backward does."""
    last_block: Held
    """When backward of the blocks does, the first block's left out."""
    first_block: Held
    """When backward of the first block, the embedding and the mask does."""
    head_gradients: int
    """Bytes of the gradients of weights that are there when backward reaches the backbone."""


def activation_memory(
    config: Config, vocab_size: int, micro_batch: int, masked_share: float, device: Device
) -> Activations:
    """Measure them for one micro-batch, in a fraction of a second.

    Args:
        micro_batch: examples in the forward pass.
        masked_share: share of their positions that are masked.
    """
    # The settings that count, so that no others ask for a measurement of their own.
    engine = replace(
        config.engine, zero_stage=1, micro_batch=0, offload_optimizer=False, compile=False, layer_norm="torch"
    )
    data = DataConfig(length=config.data.length)
    counts = Config(model=config.model, objective=config.objective, engine=engine, data=data)
    few = max(1, 2 * engine.loss_chunk_rows // data.length)
    if micro_batch <= 2 * few:
        return _measure(counts, vocab_size, micro_batch, masked_share, device)
    # Many chunks of rows, one after the other: all grows with the examples as from two chunks to four.
    low, high = (_measure(counts, vocab_size, count, masked_share, device) for count in (few, 2 * few))
    more = micro_batch / few - 1
    return Activations(
        kept=low.kept + round((high.kept - low.kept) * more),
        forward=low.forward + (high.forward - low.forward) * more,
        loss=low.loss + (high.loss - low.loss) * more,
        last_block=low.last_block + (high.last_block - low.last_block) * more,
        first_block=low.first_block + (high.first_block - low.first_block) * more,
        head_gradients=low.head_gradients,
    )


@functools.cache
def _measure(config: Config, vocab_size: int, micro_batch: int, masked_share: float, device: Device) -> Activations:
    engine, narrow = config.engine, torch.float16 if device == "cuda" else torch.bfloat16
    dtype = narrow if engine.precision == "bf16" else torch.float32
    batch = even_batch(torch.full((micro_batch,), masked_share).double(), config.data.length, vocab_size)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        model, left_out = fake_backbone(config.model, vocab_size, 2, dtype, engine.tensor_parallel)
        teacher = None
        if objective_of(config.objective).needs_teacher:
            teacher, _ = fake_backbone(config.model, vocab_size, 2, dtype, engine.tensor_parallel)
        objective = build_objective(config, teacher)
        prepare_blocks(model.train(), engine)
    prepared = objective.prepare(batch, 0)  # on the host, with the numbers of the batch
    weights = [*model.parameters(), *(teacher.parameters() if teacher else ())]
    ledger = _Ledger(weights, bool_masks=device == "cuda")
    after_block: list[Held] = []

    def note_block(block: nn.Module, _: Any, h_BLD: Tensor) -> None:
        after_block.append(ledger.held)
        if block is model.blocks[0] and len(model.blocks) > 1:
            h_BLD.register_hook(lambda grad_BLD: ledger.note("first block", grad_BLD))

    def loss(model: Backbone) -> Tensor:
        with torch.autocast("cpu", narrow, enabled=engine.precision == "autocast"):
            return objective.loss(model, prepared)

    for block in model.blocks:
        block.register_forward_hook(note_block)
    with fake, ledger:
        dry_run(model, loss, ledger.note)
    return ledger.summary((after_block[1] - after_block[0]) * left_out if left_out else Held(0, 0))


class _Ledger(TorchDispatchMode):
    """Notes what storages come and go.

    Args:
        weights: tensors that are there already, and are not counted.
        bool_masks: count a byte for each number of a mask of dropout, as a GPU's kernel keeps them.
    """

    def __init__(self, weights: list[nn.Parameter], bool_masks: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bool_masks = bool_masks
        self.held = Held(0, 0)
        self._changes: list[tuple[int, Held]] = []  # number of a storage, and what it adds
        self._moments: dict[str, tuple[int, int]] = {}  # place in the changes, and bytes of the tensor of then
        self._gradients: dict[int, int] = {}  # bytes, by number of the storage
        self._number: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        for weight in weights:
            self._number[weight.untyped_storage()] = -1
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(self._drop_gradient)

    def note(self, moment: str, tensor: Tensor) -> None:
        """Mark a moment, at which a tensor is there; of two by one name the later counts."""
        self._moments[moment] = len(self._changes), tensor.untyped_storage().nbytes()

    def summary(self, more: Held) -> Activations:
        """What was found.

        Args:
            more: what blocks that were left out keep.
        """
        levels = [Held(0, 0)]
        for number, held in self._changes:
            levels.append(levels[-1] if number in self._gradients else levels[-1] + held)
        hidden, loss, backbone, end = (self._moments[name][0] for name in ("hidden", "loss", "backbone", "end"))
        first_block = self._moments.get("first block", (backbone, 0))[0]

        def worst(start: int, stop: int) -> Held:
            return max(levels[start : stop + 1], key=lambda held: held.activations + held.copies)

        return Activations(
            kept=levels[hidden].activations - self._moments["hidden"][1] + more.activations,
            forward=worst(hidden, loss) + more,
            loss=worst(loss, backbone) + more,
            last_block=worst(backbone, first_block) + more,
            first_block=worst(first_block, end),
            head_gradients=sum(size for number, size in self._gradients.items() if number < backbone),
        )

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], arguments: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._number:
                size = tensor.untyped_storage().nbytes()
                is_copy = function is torch.ops.aten._to_copy.default and self._is_weight(arguments[0])
                self._number[tensor.untyped_storage()] = len(self._changes)
                self._add(tensor, Held(0, size) if is_copy else Held(size, 0))
        if self.bool_masks and function is torch.ops.aten.bernoulli_.float:
            self._add(result, Held(result.numel() - result.nbytes, 0))
        return result

    def _add(self, tensor: Tensor, held: Held) -> None:
        """Count `held` for as long as the tensor's storage lives."""
        storage = tensor.untyped_storage()
        self._change(self._number[storage], held)
        weakref.finalize(storage, self._change, self._number[storage], held * -1)

    def _is_weight(self, tensor: Tensor) -> bool:
        return self._number.get(tensor.untyped_storage()) == -1

    def _change(self, number: int, held: Held) -> None:
        self._changes.append((number, held))
        self.held += held

    def _drop_gradient(self, weight: Tensor) -> None:
        assert weight.grad is not None
        self._gradients[self._number[weight.grad.untyped_storage()]] = weight.grad.untyped_storage().nbytes()
        weight.grad = None
