"""Perplexity of any model on the same held-out rows: a diffusion model, the trigram, or a causal language model.

Packing puts a begin token first and an end token last in every row. A trigram does not know where a row ends and pays
for that token (3.5 nats on LM1B rows of 32), a causal model that counts positions pays nothing, a diffusion model next
to nothing for both: over all tokens the three are not alike. Over text tokens (`TokenFile.text_positions`) they are:
each figure is then -log of a law of the texts between the forced tokens (of a diffusion model, a bound from above; see
`objectives.validation`), given the begin token. The diffusion model also sees the end token where it is not masked,
which says nothing about the text: it is the same in every row.

Shape suffixes: R rows, L length, a leading 2 all tokens and text tokens.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from imdm_dist.data import TokenFile
from imdm_dist.evaluation.gen_ppl import as_rows, nll
from imdm_dist.evaluation.kneser_ney import TrigramModel
from imdm_dist.model import Backbone
from imdm_dist.objectives.validation import validation_figures, validation_sums
from imdm_dist.perplexity import Perplexities, Perplexity


def perplexities(
    model: Backbone | TrigramModel | PreTrainedModel,
    data: TokenFile,
    rows: int,
    draws_a_row: int = 1,
    progress: bool = False,
) -> Perplexities:
    """Perplexity over all tokens and over text tokens of the first `rows` rows, in one process.

    Args:
        model: a diffusion model, whose figures are bounds with a standard error; a trigram; or a transformers causal
            model over the rows' own ids, whose figure over all tokens leaves out the first of each row.
        draws_a_row: draws of time, masks and noise for each row, of a diffusion model.
        progress: show a bar.

    Raises:
        ValueError: the causal model does not know these ids or reads no rows of this length.
    """
    if isinstance(model, Backbone):
        return validation_figures(validation_sums(model, data, rows, draws_a_row, progress=progress), data)
    text, tokens_RL = data.text_positions, data.tokens[:rows]
    if isinstance(model, TrigramModel):
        nll_RL, first = torch.from_numpy(model.nll(tokens_RL)), 0
    else:
        nll_RL, first = torch.stack(list(nll(model, list(as_rows(model, tokens_RL)), progress=progress))), 1
    of_text_RL = nll_RL[:, max(text.start - first, 0) : text.stop - first]
    return Perplexities(Perplexity(float(nll_RL.mean())), Perplexity(float(of_text_RL.mean())))
