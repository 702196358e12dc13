"""The DeepSpeed engine, behind a seam: what else there is of training sees names, steps and fragments.

A *fragment* is what one rank owns of a parameter: a consecutive piece of the flattened float32 tensor
(of its tensor-parallel share). Without ZeRO that is all of it; ZeRO 1 to 3 cut it over data-parallel ranks, each
stage in its own way. Weights, moments and EMA have the same fragments, so that they can be saved, averaged and
joined without knowing how they are cut.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from imdm_dist.config.training import EngineConfig, OptimizerConfig
from imdm_dist.model import Backbone
from imdm_dist.parallel.cuts import cut_of
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.optimizers import build_optimizer

Quantity = Literal["weights", "exp_avg", "exp_avg_sq"]
BUCKET = 2**26
"""Gradient elements that are reduced together; with ZeRO a buffer of that many is kept."""
QUANTITIES: tuple[Quantity, ...] = ("weights", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """A piece of a flattened parameter."""

    start: int
    """Place of its first element in the flattened tensor-parallel share."""
    tensor: Tensor
    """Float32 [elements], live: writing to it changes what the optimizer works on."""


Fragments = dict[str, Fragment]


class _TrainModule(nn.Module):
    """Gives the engine a forward pass: a loss computed on the backbone, under the run's precision."""

    def __init__(self, backbone: Backbone, autocast: bool) -> None:
        super().__init__()
        self.backbone, self.autocast = backbone, autocast

    def forward(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.autocast):
            return compute_loss(self.backbone)


def _mpu(topology: Topology) -> object | None:
    if topology.world == 1:
        return None
    from imdm_dist.parallel.groups import Mpu

    return Mpu()


class Engine:
    """Runs optimizer steps on a backbone.

    Args:
        backbone: this rank's tensor-parallel share, with its initial weights.
        micro_batches: forward passes in an optimizer step.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        topology: Topology,
        micro_batch: int,
        micro_batches: int,
    ) -> None:
        if topology.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            os.environ.setdefault("LOCAL_RANK", "0")
        else:
            # It takes this for the number of the GPU: srun does not set it, and a rank may see one GPU alone.
            os.environ["LOCAL_RANK"] = str(topology.device.index)
        import deepspeed  # seconds to import, and its accelerator is chosen on import

        if topology.device.type == "cpu":
            # Else it compiles a shared-memory all-reduce, which training never calls, after probing for compilers.
            vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)
        deepspeed.utils.logging.logger.setLevel(logging.WARNING)
        # It calls functions that torch has given other names; that is for its authors to hear.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        self.optimizer_config, self.config, self.topology = optimizer, config, topology
        self.shapes = {name: parameter.shape for name, parameter in backbone.named_parameters()}
        """Of this rank's tensor-parallel shares."""
        self._adamw = build_optimizer(optimizer, list(backbone.parameters()))
        self._linear = F.linear
        # Without ZeRO the engine clips but does not tell the norm, so the clipping is done here.
        self._clips_here = config.zero_stage == 0
        self._engine, _, _, _ = deepspeed.initialize(
            model=_TrainModule(backbone, config.precision == "autocast"),
            optimizer=self._adamw,
            mpu=_mpu(topology),
            config={
                "train_batch_size": micro_batch * micro_batches * topology.dp,
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": micro_batches,
                "gradient_clipping": 0.0 if self._clips_here else optimizer.clip,
                "zero_optimization": {
                    "stage": config.zero_stage,
                    "reduce_bucket_size": BUCKET,
                    "allgather_bucket_size": BUCKET,
                    **({"offload_optimizer": {"device": "cpu"}} if config.offload_optimizer else {}),
                },
                "zero_force_ds_cpu_optimizer": False,
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
                "steps_per_print": 10**9,
            },
        )
        # Without ZeRO it would flatten all gradients into one buffer as large as they are, even for one rank.
        self._engine.enable_backward_allreduce = config.zero_stage > 0
        self._parameters = dict(self._engine.module.backbone.named_parameters())
        self._fragments: dict[Quantity, Fragments] = {}

    @property
    def backbone(self) -> Backbone:
        """The model in training."""
        return self._engine.module.backbone

    def set_training(self, training: bool) -> None:
        """Dropout on or off."""
        self._engine.train(training)

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        """Add the gradient of a micro-batch's share of the loss; return that share, detached."""
        share = self._engine(compute_loss)
        # DeepSpeed averages over ranks and would over micro-batches; shares are to be summed.
        self._engine.backward(share * self.topology.dp, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return share.detach()

    def step(self, lr: float) -> Tensor | float:
        """Clip, update the weights and clear the gradients; return the global gradient norm before clipping.

        Where the norm is not finite nothing is updated.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = self._clip() if self._clips_here else None
        if norm is not None:
            self._skip_unless_finite(norm)
        self._engine.step()
        return self._engine.get_global_grad_norm() if norm is None else norm

    def _clip(self) -> Tensor:
        topology = self.topology
        if topology.dp > 1:
            self._engine.allreduce_gradients(bucket_size=BUCKET)
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        # What every tensor-parallel rank holds counts once.
        counted = [grad for name, grad in grads.items() if topology.tp_rank == 0 or cut_of(name) is not None]
        square = torch.stack(torch._foreach_norm(counted)).square().sum()
        if topology.tp > 1:
            dist.all_reduce(square, group=topology.tp_group)
        norm = square.sqrt()
        limit = self.optimizer_config.clip or float("inf")
        torch._foreach_mul_(list(grads.values()), (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _skip_unless_finite(self, norm: Tensor) -> None:
        if self.optimizer_config.kind == "torch":
            # Its fused optimizers skip on the device where this is not zero (the seam of torch's gradient scaler).
            self._adamw.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        elif not norm.isfinite():
            self._adamw.zero_grad()  # other libraries know no such flag: the host must look, and leave no gradient

    def fragments(self, quantity: Quantity) -> Fragments:
        """What this rank owns of every parameter, by name; moments only after a step or `load`."""
        if quantity not in self._fragments:
            found = {name: self._fragment(p, self.shapes[name], quantity) for name, p in self._parameters.items()}
            self._fragments[quantity] = {name: piece for name, piece in found.items() if piece is not None}
        return self._fragments[quantity]

    def _fragment(self, parameter: nn.Parameter, shape: torch.Size, quantity: Quantity) -> Fragment | None:
        key = None if quantity == "weights" else quantity
        if self.config.zero_stage == 0:
            tensor = parameter.detach() if key is None else self._adamw.state[parameter][key]
            return Fragment(0, tensor.view(-1))
        if self.config.zero_stage < 3:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:
                return None
            return Fragment(mapping.lp_fragment_address.start, mapping.get_hp_fragment(key).detach())
        # The public function copies to the device what is offloaded to the host; what it copies is wanted here.
        zero = parameter._z3_optimizer  # type: ignore[attr-defined]
        piece, _ = zero._get_fp32_opt_state_partition(parameter, False, key)
        start = self.topology.dp_rank * piece.numel()
        length = min(piece.numel(), shape.numel() - start)
        return Fragment(start, piece.detach()[:length]) if length > 0 else None

    def gather(self, fragments: Mapping[str, Fragment]) -> Iterator[tuple[str, Tensor]]:
        """Join the fragments of all data-parallel ranks: each parameter's whole tensor-parallel share, one by one."""
        for name, shape in self.shapes.items():
            own = fragments.get(name)
            if self.config.zero_stage == 0:
                assert own is not None
                yield name, own.tensor.view(shape)
                continue
            whole = torch.zeros(shape.numel(), dtype=torch.float32, device=self.topology.device)
            if own is not None:
                whole[own.start : own.start + own.tensor.numel()].copy_(own.tensor)
            yield name, self.topology.sum_over_data(whole).view(shape)

    def optimizer_steps(self) -> int:
        """Updates made; fewer than steps done where some were skipped."""
        for state in self._inner_states():
            return int(state["step"])
        return int(self._adamw.param_groups[0].get("step", 0))  # apex counts there

    def _inner_states(self) -> Iterator[dict[str, Tensor]]:
        return (state for state in self._adamw.state.values() if "step" in state)

    def prepare_load(self, compute_loss: Callable[[Backbone], Tensor], micro_batches: int) -> None:
        """Make the optimizer state, which exists from the first step on, by a step of rate and gradient zero."""
        for _ in range(micro_batches):
            self.accumulate(lambda model: compute_loss(model) * 0)
        self.step(lr=0.0)

    @torch.no_grad()
    def load(self, share_of: Callable[[Quantity, str], Tensor], updates: int) -> None:
        """Take weights, moments and the count of updates; `prepare_load` goes before.

        Args:
            share_of: gives a quantity of a parameter: this rank's tensor-parallel share, float32, on the host.
        """
        from deepspeed.runtime.zero import GatheredParameters

        for name, parameter in self._parameters.items():
            for quantity in QUANTITIES:
                whole = share_of(quantity, name)
                piece = self.fragments(quantity).get(name)
                if piece is not None:
                    piece.tensor.copy_(whole.reshape(-1)[piece.start : piece.start + piece.tensor.numel()])
                if quantity == "weights" and self.config.zero_stage > 0:
                    # The copy that the forward pass uses is another one; stage 3 must gather it to write it.
                    with GatheredParameters([parameter], modifier_rank=0, enabled=self.config.zero_stage == 3):
                        parameter.data.copy_(whole)
        for state in self._inner_states():
            state["step"].fill_(updates)
        for group in self._adamw.param_groups:
            if "step" in group:
                group["step"] = updates

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.destroy()
        # ZeRO 3 puts its own in place of torch's for the whole process, and leaves it there.
        F.linear = self._linear
