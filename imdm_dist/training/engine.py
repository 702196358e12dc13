"""The DeepSpeed engine, behind a seam: what else there is of training sees names and full tensors.

Whatever ZeRO does with them, weights and moments are read and written here by parameter name, in
full shape and float32, so that checkpoints do not depend on how a run was split.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imdm_dist.config.schema import EngineConfig, OptimizerConfig
from imdm_dist.model import DiT

MOMENTS = ("exp_avg", "exp_avg_sq")


def start_process_group() -> None:
    """Join the process group of the launcher's environment, or make one of this process alone."""
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


class _TrainModule(nn.Module):
    """Gives the engine a forward pass: a loss computed on the backbone, under the run's precision."""

    def __init__(self, backbone: DiT, autocast: bool) -> None:
        super().__init__()
        self.backbone, self.autocast = backbone, autocast

    def forward(self, compute_loss: Callable[[DiT], Tensor]) -> Tensor:
        with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.autocast):
            return compute_loss(self.backbone)


class Engine:
    """Runs optimizer steps on a backbone.

    Args:
        backbone: on the host, with its initial weights.
        micro_batches: forward passes in an optimizer step.
    """

    def __init__(
        self, backbone: DiT, config: EngineConfig, optimizer: OptimizerConfig, micro_batch: int, micro_batches: int
    ) -> None:
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("LOCAL_RANK", "0")
        start_process_group()
        import deepspeed  # seconds to import, and its accelerator is chosen on import

        if dist.get_world_size() == 1:
            # Else it compiles a shared-memory all-reduce, which one process has no use for, after probing for
            # compilers and libraries that need not be there.
            vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)
        deepspeed.utils.logging.logger.setLevel(logging.WARNING)
        self.optimizer_config, self.config = optimizer, config
        adamw = torch.optim.AdamW(
            backbone.parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        # Without ZeRO the engine clips but does not tell the norm, so the clipping is done here.
        self._clips_here = config.zero_stage == 0
        self._engine, _, _, _ = deepspeed.initialize(
            model=_TrainModule(backbone, config.precision == "autocast"),
            optimizer=adamw,
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": micro_batches,
                "gradient_clipping": 0.0 if self._clips_here else optimizer.clip,
                "zero_optimization": {"stage": config.zero_stage},
                "bf16": {"enabled": config.precision == "bf16"},
                "steps_per_print": 10**9,
            },
        )
        self._parameters = dict(self._engine.module.backbone.named_parameters())
        self._world = dist.get_world_size()

    @property
    def backbone(self) -> DiT:
        """The model in training."""
        return self._engine.module.backbone

    def set_training(self, training: bool) -> None:
        """Dropout on or off."""
        self._engine.train(training)

    def accumulate(self, compute_loss: Callable[[DiT], Tensor]) -> Tensor:
        """Add the gradient of a micro-batch's share of the loss; return that share, detached."""
        share = self._engine(compute_loss)
        # DeepSpeed averages over ranks and would over micro-batches; shares are to be summed.
        self._engine.backward(share * self._world, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return share.detach()

    def step(self, lr: float) -> Tensor | float:
        """Clip, update the weights and clear the gradients; return the gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm: Tensor | float | None = None
        if self._clips_here:
            limit = self.optimizer_config.clip or float("inf")
            norm = nn.utils.clip_grad_norm_(self._engine.module.parameters(), limit, foreach=True)
        self._engine.step()
        return self._engine.get_global_grad_norm() if norm is None else norm

    def weights(self) -> dict[str, Tensor]:
        """Float32 weights by name, in full shape: the parameters themselves where they are whole and float32."""
        if self.config.zero_stage == 3 or self.config.precision == "bf16":
            from deepspeed.utils import safe_get_full_fp32_param

            return {name: safe_get_full_fp32_param(p) for name, p in self._parameters.items()}
        return {name: p.detach() for name, p in self._parameters.items()}

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """AdamW's moments by kind and name, in full shape; only after a step or `load`."""
        if self.config.zero_stage == 0:
            state = self._engine.optimizer.state
            return {kind: {name: state[p][kind] for name, p in self._parameters.items()} for kind in MOMENTS}
        from deepspeed.utils import safe_get_full_optimizer_state

        return {
            kind: {name: safe_get_full_optimizer_state(p, kind) for name, p in self._parameters.items()}
            for kind in MOMENTS
        }

    def load(
        self,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Mapping[str, Tensor]],
        done: int,
        compute_loss: Callable[[DiT], Tensor],
        micro_batches: int,
    ) -> None:
        """Take weights, moments and the count of steps from a checkpoint.

        Optimizer state exists from the first step on, so one is made first, of rate and gradient zero.
        """
        for _ in range(micro_batches):
            self.accumulate(lambda model: compute_loss(model) * 0)
        self.step(lr=0.0)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._write(parameter, weights[name], {kind: moments[kind][name] for kind in MOMENTS})
        inner = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        for state in inner.state.values():
            state["step"].fill_(done)

    def _write(self, parameter: nn.Parameter, weight: Tensor, moments: Mapping[str, Tensor]) -> None:
        if self.config.zero_stage == 0:
            parameter.copy_(weight)
            for kind, moment in moments.items():
                self._engine.optimizer.state[parameter][kind].copy_(moment)
            return
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        safe_set_full_fp32_param(parameter, weight)
        for kind, moment in moments.items():
            safe_set_full_optimizer_state(parameter, moment, kind)
        # The copy that the forward pass uses is another one, and in stage 3 it has to be gathered to be written.
        with GatheredParameters([parameter], modifier_rank=0, enabled=self.config.zero_stage == 3):
            parameter.data.copy_(weight)

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.destroy()
