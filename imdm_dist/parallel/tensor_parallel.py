"""Tensor parallel: megatron-core's layers take the place of the plain model's, under the same parameter names.

`split` is the one place where a model becomes a part of itself. What flows between layers is whole and equal
on all ranks; inside attention, MLP, noise MLP and head each rank computes its heads and columns.
"""

from __future__ import annotations

import warnings
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdm_dist.model import Backbone
from imdm_dist.model.dit.model import EmbeddingLayer
from imdm_dist.parallel.cuts import cut_of, share
from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary
from imdm_dist.parallel.topology import Topology

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says at length what it could do with other packages
    from megatron.core import ModelParallelConfig
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
    )


class _Column(ColumnParallelLinear):
    """Columns of the output are divided; what comes out is this rank's."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.is_autocast_enabled("cpu"):  # the library's own product knows autocast on GPUs alone
            return F.linear(copy_to_tensor_model_parallel_region(x, group=self.tp_group), self.weight, self.bias)
        return super().forward(x)[0]


class _Row(RowParallelLinear):
    """Columns of the input are divided; what comes out is the sum over ranks."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.is_autocast_enabled("cpu"):
            total = reduce_from_tensor_model_parallel_region(F.linear(x, self.weight), group=self.tp_group)
            return total if self.bias is None else total + self.bias
        return super().forward(x)[0]


def split(model: Backbone, topology: Topology) -> Backbone:
    """Keep this rank's share of a model with full weights, in place."""
    config = ModelParallelConfig(
        tensor_model_parallel_size=topology.tp, use_cpu_initialization=True, perform_initialization=False
    )
    weights = {name: share(p.detach(), cut_of(name), topology.tp_rank, topology.tp) for name, p in _named(model)}
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        cut = cut_of(f"{name}.weight")
        if cut is not None:
            kind = _Column if cut.dim == 0 else _Row
            model.set_submodule(name, _parallel_linear(kind, module, config, topology))
    _split_embedding(cast(EmbeddingLayer, model.vocab_embed), config, topology)
    model.vocabulary = SplitVocabulary(model.vocabulary, topology)
    with torch.no_grad():
        for name, parameter in _named(model):
            parameter.copy_(weights.pop(name))
            if cut_of(name) is None and hasattr(parameter, "tensor_model_parallel"):
                del parameter.tensor_model_parallel  # DeepSpeed would count it once per rank in the gradient norm
            elif cut_of(name) is not None:
                parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    return model


def _named(model: Backbone) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


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


def _split_embedding(layer: EmbeddingLayer, config: ModelParallelConfig, topology: Topology) -> None:
    rows, dim = layer.embedding.shape
    table = VocabParallelEmbedding(
        rows + -rows % topology.tp, dim, init_method=nn.init.zeros_, config=config, tp_group=topology.tp_group
    )
    # Its weight goes by the public name; the module itself stays unregistered, or it would have two.
    layer.embedding = cast(nn.Parameter, table.weight)
    layer.lookup = table.forward  # type: ignore[method-assign]
