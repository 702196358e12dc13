"""Generative perplexity: how well a causal language model predicts samples.

Conventions, which differ between published numbers:

- the first token of a sequence is context and is never scored; every other token is;
- end tokens: SDTT and Di4C score all of them. MDLM, DUO and arXiv 2605.10518 leave them out from the second of a
  sequence on, and the first token of a sequence counts as one: of GPT-2 rows, which begin with an end token, they
  score no end token at all. Text after an end token is scored by all. Both means are given here: `token_level` and
  `first_end`. Padding is never scored; there, the first pad of a text without any end token is, as if it were one;
- `token_level` = exp(mean over all scored tokens), as MDLM and DUO; `sequence_level` = exp(mean over sequences of the
  mean over their scored tokens), as SDTT and Di4C. They agree where all sequences have one length;
- ids or text: SDTT scores sampled ids as they are; MDLM, DUO and the paper decode them, encode the text for the
  evaluator and cut it to the samples' length;
- the log-softmax is in float32 whatever the precision of the network.

Shape suffixes: B sequences of a batch, L length, V vocabulary, S scored tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from imdm_dist.config.setting import require
from imdm_dist.evaluation.token_rows import Rows, as_array
from imdm_dist.perplexity import exp_of_mean, finite

SCORED_LOGITS = 2**27
"""Logits of the evaluator that exist at a time: half a gigabyte."""


@dataclass(frozen=True)
class GenerativePerplexity:
    """Perplexities of a set of sequences, and what they are means over; None where no float holds one."""

    token_level: float | None
    sequence_level: float | None
    first_end: float | None
    """As token_level, end tokens from the second of a sequence on left out; None too without an end token to know."""
    tokens: int
    sequences: int

    def to_dict(self) -> dict[str, float | None]:
        """Fields by name."""
        return asdict(self)


def scoring_batch(lm: PreTrainedModel, length: int) -> int:
    """How many sequences of a length to score at a time."""
    return max(1, SCORED_LOGITS // (length * lm.config.vocab_size))


def generative_perplexity(
    lm: PreTrainedModel, rows_BL: Rows, batch: int | None = None, end_id: int | None = None, progress: bool = False
) -> GenerativePerplexity:
    """Score token rows that use the evaluator's own vocabulary.

    Args:
        lm: a transformers causal language model in eval mode.
        rows_BL: integers [B, L], the same ids as the evaluator's; L >= 2.
        batch: rows at a time, whose batch * L * V logits exist at once; None takes `scoring_batch`.

    Raises:
        ValueError: a row is longer than the evaluator reads, or holds an id outside its vocabulary.
    """
    rows = as_rows(lm, rows_BL)
    return _means(nll(lm, list(rows), batch, progress), rows, end_id)


def generative_perplexity_of_sequences(
    lm: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    max_tokens: int,
    batch: int | None = None,
    end_id: int | None = None,
    progress: bool = False,
) -> GenerativePerplexity:
    """As `generative_perplexity`, of sequences of many lengths, such as texts that the evaluator's tokenizer encoded.

    Whether special tokens are part of the texts is the caller's choice: note it in the result.

    Args:
        sequences: ids of the evaluator's vocabulary; sequences of fewer than two are left out.
        max_tokens: sequences are cut to so many (MDLM: the samples' own length), or to what the evaluator reads.

    Raises:
        ValueError: no sequence has two ids.
    """
    limit = min(max_tokens, lm.config.max_position_embeddings)
    encoded = [torch.tensor(ids[:limit], dtype=torch.int64) for ids in sequences if min(limit, len(ids)) >= 2]
    require(bool(encoded), "no sample has two tokens of the evaluator: nothing to score, look at the samples' text")
    return _means(nll(lm, encoded, batch or scoring_batch(lm, max_tokens), progress), encoded, end_id)


def as_rows(lm: PreTrainedModel, rows_BL: Rows) -> Tensor:
    """Token rows that a language model can read, int64 [B, L].

    Raises:
        ValueError: as `generative_perplexity`.
    """
    rows = torch.from_numpy(as_array(rows_BL).astype("int64"))
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
    return rows


@torch.no_grad()
def nll(
    lm: PreTrainedModel, sequences: Sequence[Tensor], batch: int | None = None, progress: bool = False
) -> Iterator[Tensor]:
    """Negative log-likelihoods of all but the first token of each sequence, float64 [S] on the host."""
    device = next(lm.parameters()).device
    batch = batch or scoring_batch(lm, max(map(len, sequences)))
    with tqdm(total=len(sequences), desc="Gen. PPL", unit="seq", leave=False, disable=not progress) as bar:
        for first in range(0, len(sequences), batch):
            some = sequences[first : first + batch]
            # Padding stands to the right, where a causal model cannot see it from the scored tokens; its id is of no
            # matter.
            rows_BL = nn.utils.rnn.pad_sequence(list(some), batch_first=True).to(device)
            logits_BLV = lm(input_ids=rows_BL).logits
            for ids, row_L, logits_LV in zip(some, rows_BL, logits_BLV, strict=True):
                logits_SV, target_S = logits_LV[: len(ids) - 1].float(), row_L[1 : len(ids)]
                yield F.cross_entropy(logits_SV, target_S, reduction="none").double().cpu()
                bar.update()


def _means(nll_by_sequence: Iterable[Tensor], sequences: Iterable[Tensor], end_id: int | None) -> GenerativePerplexity:
    total, of_means, tokens, count, kept_total, kept_tokens = 0.0, 0.0, 0, 0, 0.0, 0
    for nll_S, ids_L in zip(nll_by_sequence, sequences, strict=True):
        total += float(nll_S.sum())
        of_means += float(nll_S.mean())
        tokens += len(nll_S)
        count += 1
        if end_id is not None:
            is_end_L = ids_L == end_id
            kept_S = ~(is_end_L & (is_end_L.cumsum(0) > 1))[1:]
            kept_total += float(nll_S[kept_S].sum())
            kept_tokens += int(kept_S.sum())
    return GenerativePerplexity(
        token_level=finite(exp_of_mean(total / tokens)),
        sequence_level=finite(exp_of_mean(of_means / count)),
        first_end=finite(exp_of_mean(kept_total / kept_tokens)) if kept_tokens else None,
        tokens=tokens,
        sequences=count,
    )
