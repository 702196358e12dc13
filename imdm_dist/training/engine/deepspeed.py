"""The DeepSpeed engine, ZeRO stages 0 to 3. All private names of DeepSpeed that are used are in this file.

Without ZeRO a rank owns all of a parameter; ZeRO 1 to 3 cut it over data-parallel ranks, each stage in its own way.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdm_dist.checkpoint.format import Piece
from imdm_dist.config.training import EngineConfig
from imdm_dist.model import Backbone
from imdm_dist.parallel.topology import Topology
from imdm_dist.training.engine.engine import Engine, Quantity, compute
from imdm_dist.training.engine.plain import clip_gradients
from imdm_dist.training.optimizers import skip_unless_finite

BUCKET = 2**26
"""Gradient elements that are reduced together; with ZeRO a buffer of that many is kept."""


class _TrainModule(nn.Module):
    """Gives DeepSpeed a forward pass: a loss computed on the backbone."""

    def __init__(self, backbone: Backbone, config: EngineConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config

    def forward(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        return compute(compute_loss, self.backbone, self.config)


def _mpu(topology: Topology) -> object | None:
    if topology.world == 1:
        return None
    from imdm_dist.parallel.groups import Mpu

    return Mpu()


class DeepSpeedEngine(Engine):
    """See `Engine`."""

    max_zero_stage = 3

    def set_up(self, micro_batch: int, micro_batches: int) -> Iterable[Tensor]:
        config, clip, topology = self.config, self.optimizer.clip, self.topology
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
        self.divides = config.zero_stage > 0
        self._linear = F.linear
        self._engine, _, _, _ = deepspeed.initialize(
            model=_TrainModule(self.backbone, config),
            optimizer=self.adamw,
            mpu=_mpu(topology),
            config={
                "train_batch_size": micro_batch * micro_batches * topology.dp,
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": micro_batches,
                # Without ZeRO it clips but does not tell the norm, so the clipping is done here.
                "gradient_clipping": clip if self.divides else 0.0,
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
        self._engine.enable_backward_allreduce = self.divides
        # DeepSpeed leaves the optimizer's state to the first step; what it will step is this.
        if config.zero_stage == 0:
            return self.parameters.values()
        zero = self._engine.optimizer
        return zero.single_partition_of_fp32_groups if config.zero_stage < 3 else zero.fp32_partitioned_groups_flat

    def accumulate(self, compute_loss: Callable[[Backbone], Tensor]) -> Tensor:
        share = self._engine(compute_loss)
        # DeepSpeed averages over ranks and would over micro-batches; shares are to be summed.
        self._engine.backward(share * self.topology.dp, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return share.detach()

    def step(self, lr: float) -> Tensor | float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = None if self.divides else self._clip()
        self._engine.step()
        return self._engine.get_global_grad_norm() if norm is None else norm

    def _clip(self) -> Tensor:
        if self.topology.dp > 1:
            self._engine.allreduce_gradients(bucket_size=BUCKET)
        norm = clip_gradients(self.backbone, self.optimizer.clip, self.topology)
        skip_unless_finite(self.optimizer.kind, self.adamw, norm)
        return norm

    def piece(self, name: str, quantity: Quantity) -> Piece | None:
        parameter, key = self.parameters[name], None if quantity == "weights" else quantity
        if self.config.zero_stage == 0:
            return super().piece(name, quantity)
        if self.config.zero_stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()  # lets the mapping find the moments
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:
                return None
            return Piece(mapping.lp_fragment_address.start, mapping.get_hp_fragment(key).detach())
        # The public function copies to the device what is offloaded to the host; what it copies is wanted here.
        zero = parameter._z3_optimizer  # type: ignore[attr-defined]
        piece, _ = zero._get_fp32_opt_state_partition(parameter, False, key)
        start = self.topology.dp_rank * piece.numel()
        length = min(piece.numel(), self.shapes[name].numel() - start)
        return Piece(start, piece.detach()[:length]) if length > 0 else None

    @torch.no_grad()
    def take(self, name: str, quantity: Quantity, whole: Tensor) -> None:
        from deepspeed.runtime.zero import GatheredParameters

        super().take(name, quantity, whole)
        if quantity == "weights" and self.divides:
            # The copy that the forward pass uses is another one; stage 3 must gather it to write it.
            with GatheredParameters([self.parameters[name]], modifier_rank=0, enabled=self.config.zero_stage == 3):
                self.parameters[name].data.copy_(whole)

    def close(self) -> None:
        self._engine.destroy()
        # ZeRO 3 puts its own in place of torch's for the whole process, and leaves it there.
        F.linear = self._linear
