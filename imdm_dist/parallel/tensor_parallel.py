"""Tensor parallelism: megatron-core's layers replace the plain model's, under the same parameter names.

`split` divides a model, in one place. Activations between layers are whole and equal on all ranks; inside attention,
MLP, noise MLP and head each rank computes its own heads and columns.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdm_dist.model import Backbone
from imdm_dist.model.cuts import share
from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary
from imdm_dist.parallel.topology import Topology

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says at length what it could do with other packages
    from megatron.core import ModelParallelConfig
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        copy_to_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
    )


class _Column(ColumnParallelLinear):
    """Columns of the output are divided; what comes out is this rank's."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # the library's own product knows autocast on GPUs alone
            return F.linear(copy_to_tensor_model_parallel_region(x, group=self.tp_group), self.weight, self.bias)
        return super().forward(x)[0]


class _Row(RowParallelLinear):
    """Columns of the input are divided; what comes out is the sum over ranks."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            total = reduce_from_tensor_model_parallel_region(F.linear(x, self.weight), group=self.tp_group)
            return total if self.bias is None else total + self.bias
        return super().forward(x)[0]


def split(model: Backbone, topology: Topology) -> Backbone:
    """Keep this rank's share of a model with full weights, in place: what its `cut_of` says is divided.

    Linear layers become the library's; tables of embeddings are looked up by `SplitVocabulary.embed`.
    """
    config = ModelParallelConfig(
        tensor_model_parallel_size=topology.tp, use_cpu_initialization=True, perform_initialization=False
    )
    weights = {
        name: share(parameter.detach(), model.cut_of(name), topology.tp_rank, topology.tp)
        for name, parameter in model.named_parameters()
    }
    for name, module in list(model.named_modules()):
        cut = model.cut_of(f"{name}.weight")
        if isinstance(module, nn.Linear) and cut is not None:
            kind = _Column if cut.dim == 0 else _Row
            model.set_submodule(name, _parallel_linear(kind, module, config, topology))
    model.vocabulary = SplitVocabulary(model.vocabulary, topology)
    for name, parameter in list(model.named_parameters()):
        weight = weights.pop(name)
        if parameter.shape == weight.shape:
            parameter.data.copy_(weight)
        else:
            owner, _, own_name = name.rpartition(".")
            parameter = nn.Parameter(weight)
            model.get_submodule(owner).register_parameter(own_name, parameter)
        if model.cut_of(name) is not None:
            parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
        elif hasattr(parameter, "tensor_model_parallel"):
            del parameter.tensor_model_parallel  # DeepSpeed would count it once per rank in the gradient norm
    return model


def _parallel_linear(
    kind: type[_Column] | type[_Row], plain: nn.Linear, config: ModelParallelConfig, topology: Topology
) -> nn.Module:
    """The parallel layer of a plain one, without its weights."""
    # Padding the output is for the head alone; it does not divide the vocabulary otherwise.
    outputs = plain.out_features + (-plain.out_features % topology.tp if kind is _Column else 0)
    more = {"gather_output": False} if kind is _Column else {"input_is_parallel": True}
    return kind(
        plain.in_features,
        outputs,
        config=config,
        init_method=nn.init.zeros_,
        bias=plain.bias is not None,
        skip_bias_add=False,
        tp_group=topology.tp_group,
        **more,
    )
