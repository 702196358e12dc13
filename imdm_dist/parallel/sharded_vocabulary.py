"""The vocabulary axis sharded over tensor-parallel ranks: the same quantities as `imdm_dist.model.Vocabulary`.

Each rank holds V' consecutive columns; those behind the last token are padding. Results are equal on all ranks.

Shape suffixes: B batch, L length, D hidden width, R rows, V vocabulary columns of this rank, T ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region, vocab_parallel_cross_entropy
from torch import Tensor

from imdm_dist.model.vocabulary import NEVER, Vocabulary, first_above
from imdm_dist.parallel.topology import Topology


class SplitVocabulary(Vocabulary):
    """A vocabulary of which this process holds a part; the methods are those of `Vocabulary`."""

    def __init__(self, whole: Vocabulary, topology: Topology) -> None:
        super().__init__(whole.size, whole.mask_id)
        self.group, self.rank, self.ranks = topology.tp_group, topology.tp_rank, topology.tp
        self.columns = -(-whole.size // topology.tp)
        self.first = topology.tp_rank * self.columns
        self.tokens = max(0, min(self.columns, whole.size - self.first))
        """Columns of this rank that are no padding."""

    def embed(self, x_BL: Tensor, table_VD: Tensor) -> Tensor:
        ours_BL = (x_BL >= self.first) & (x_BL < self.first + self.columns)
        rows_BLD = F.embedding(torch.where(ours_BL, x_BL - self.first, 0), table_VD)
        return reduce_from_tensor_model_parallel_region(rows_BLD.masked_fill(~ours_BL[..., None], 0), group=self.group)

    def rule_out(self, logits_RV: Tensor) -> Tensor:
        logits_RV[:, self.tokens :] = NEVER
        if self.first <= self.mask_id < self.first + self.tokens:
            logits_RV[:, self.mask_id - self.first] = NEVER
        return logits_RV

    def token_columns(self, logits_RV: Tensor) -> Tensor:
        column_V = torch.arange(self.first, self.first + self.columns, device=logits_RV.device)
        return ((column_V < self.size) & (column_V != self.mask_id)).float()

    def nll(self, logits_RV: Tensor, target_R: Tensor) -> Tensor:
        # The library's function works in place on float32 logits.
        return vocab_parallel_cross_entropy(logits_RV.float().clone(), target_R)

    def log_softmax(self, logits_RV: Tensor) -> Tensor:
        """See `Vocabulary`."""
        return _SplitLogSoftmax.apply(logits_RV.float(), self.group)  # type: ignore[no-untyped-call]

    def sum(self, part: Tensor) -> Tensor:
        return reduce_from_tensor_model_parallel_region(part, group=self.group)

    def invert_cdf(self, logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
        # All ranks must give the same uniforms.
        logits_RV = logits_RV.double()
        top_R = logits_RV.amax(dim=-1)
        dist.all_reduce(top_R, op=dist.ReduceOp.MAX, group=self.group)
        cdf_RV = (logits_RV - top_R[:, None]).exp().cumsum(dim=-1)
        mass_TR = torch.empty(self.ranks, len(uniform_R), dtype=torch.float64, device=logits_RV.device)
        dist.all_gather(list(mass_TR.unbind()), cdf_RV[:, -1].contiguous(), group=self.group)
        # Every rank computes every rank's bounds from the same numbers, so exactly one finds the token its own.
        edge_TR = mass_TR.cumsum(dim=0)
        aim_R = uniform_R * edge_TR[-1]
        owner_R = first_above(edge_TR.t().contiguous(), aim_R)
        place_R = first_above(cdf_RV, aim_R - (edge_TR[self.rank] - mass_TR[self.rank]))
        token_R = torch.where(owner_R == self.rank, self.first + place_R, 0)
        dist.all_reduce(token_R, group=self.group)
        # Padding has the weight that the mask has: none, unless all tokens have less.
        return torch.where(edge_TR[-1].isfinite() & (token_R < self.size), token_R, self.mask_id)


class _SplitLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_RV: Tensor, group: dist.ProcessGroup) -> Tensor:
        top_R1 = logits_RV.amax(dim=-1, keepdim=True)
        dist.all_reduce(top_R1, op=dist.ReduceOp.MAX, group=group)
        shifted_RV = logits_RV - top_R1
        total_R1 = shifted_RV.exp().sum(dim=-1, keepdim=True)
        dist.all_reduce(total_R1, group=group)
        log_RV = shifted_RV - total_R1.log()
        ctx.save_for_backward(log_RV)
        ctx.group = group
        return log_RV

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (log_RV,) = ctx.saved_tensors
        total_R1 = grads[0].sum(dim=-1, keepdim=True)
        dist.all_reduce(total_R1, group=ctx.group)
        return grads[0] - log_RV.exp() * total_R1, None
