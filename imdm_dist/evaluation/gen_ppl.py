"""Generative perplexity: how well a causal language model predicts samples.

Conventions, which differ between published numbers:
- the first token of a sequence is context and is never scored; every other token is, end tokens too (MDLM and DUO
  leave out end tokens after the second; SDTT and this project do not);
- `token_level` = exp(mean over all scored tokens), as MDLM and DUO; `sequence_level` = exp(mean over sequences of the
  mean over their scored tokens), as SDTT and Di4C. They agree where all sequences have one length;
- the log-softmax is in float32 whatever the precision of the network.

Shape suffixes: B sequences of a batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from imdm_dist.config.require import require
from imdm_dist.evaluation.text_metrics import Rows, as_array


@dataclass(frozen=True)
class GenerativePerplexity:
    """Perplexities of a set of sequences, and what they are means over."""

    token_level: float
    sequence_level: float
    tokens: int
    sequences: int

    def to_dict(self) -> dict[str, float]:
        """Fields by name."""
        return asdict(self)


def generative_perplexity(
    lm: PreTrainedModel, rows_BL: Rows, batch: int = 32, progress: bool = False
) -> GenerativePerplexity:
    """Score token rows that use the evaluator's own vocabulary.

    Args:
        lm: a transformers causal language model in eval mode.
        rows_BL: integers [B, L], the same ids as the evaluator's; L >= 2.
        batch: rows at a time; batch * L * V logits exist at once.
        progress: show a bar.

    Raises:
        ValueError: a row is longer than the evaluator reads, or holds an id outside its vocabulary.
    """
    rows = torch.from_numpy(as_array(rows_BL).astype(np.int64))
    config, length = lm.config, rows.shape[1]
    require(length >= 2, f"rows of {length} token leave nothing to score: set data.length to 2 or more")
    require(
        int(rows.max()) < config.vocab_size,
        f"samples hold token {int(rows.max())} but the evaluator knows {config.vocab_size}: use an evaluator trained on"
        " the same tokens, or score re-tokenised text",
    )
    require(
        length <= config.max_position_embeddings,
        f"samples have {length} tokens but the evaluator reads {config.max_position_embeddings}:"
        f" train one on rows of data.length={length}",
    )
    return _score(lm, ((part, [length] * len(part)) for part in rows.split(batch)), len(rows), progress)


def generative_perplexity_of_texts(
    lm: PreTrainedModel, tokenizer: Any, texts: Sequence[str], max_tokens: int, batch: int = 32, progress: bool = False
) -> GenerativePerplexity:
    """Score texts in the evaluator's own tokens, for an evaluator with another vocabulary (GPT-2 on BERT samples).

    Args:
        lm: a transformers causal language model in eval mode.
        tokenizer: the evaluator's transformers tokenizer.
        texts: decoded samples; whether special tokens are part of them is the caller's choice: note it in the result.
        max_tokens: texts are cut to so many tokens (MDLM: the samples' own length).
        batch: texts at a time.
        progress: show a bar.

    Raises:
        ValueError: no text has two tokens.
    """
    limit = min(max_tokens, lm.config.max_position_embeddings)
    encoded = [tokenizer.encode(text, add_special_tokens=False)[:limit] for text in texts]
    encoded = [ids for ids in encoded if len(ids) >= 2]
    require(bool(encoded), "no sample has two tokens of the evaluator: nothing to score, look at the samples' text")
    return _score(lm, _padded(encoded, batch), len(encoded), progress)


def _padded(encoded: list[list[int]], batch: int) -> Iterator[tuple[Tensor, list[int]]]:
    # Padding stands to the right, where a causal model cannot see it from the scored tokens; its id is of no matter.
    for first in range(0, len(encoded), batch):
        part = [torch.tensor(ids) for ids in encoded[first : first + batch]]
        yield nn.utils.rnn.pad_sequence(part, batch_first=True), [len(ids) for ids in part]


@torch.no_grad()
def _score(
    lm: PreTrainedModel, batches: Iterator[tuple[Tensor, list[int]]], sequences: int, progress: bool
) -> GenerativePerplexity:
    device = next(lm.parameters()).device
    total, of_means, tokens = 0.0, 0.0, 0
    with tqdm(total=sequences, desc="Gen. PPL", unit="seq", disable=not progress) as bar:
        for rows_BL, lengths in batches:
            rows_BL = rows_BL.to(device)
            logits_BLV = lm(input_ids=rows_BL).logits
            for row_L, logits_LV, length in zip(rows_BL, logits_BLV, lengths, strict=True):
                nll = F.cross_entropy(logits_LV[: length - 1].float(), row_L[1:length], reduction="none").double()
                total += nll.sum().item()
                of_means += nll.mean().item()
                tokens += length - 1
            bar.update(len(lengths))
    token_level, sequence_level = torch.tensor([total / tokens, of_means / sequences]).double().exp().tolist()
    return GenerativePerplexity(token_level, sequence_level, tokens, sequences)
