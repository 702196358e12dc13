"""An evaluator made ready for samples: Gen. PPL by every convention that it allows.

A convention is what is scored, and which end tokens count: `ids, all` is SDTT's; `text, first` that of MDLM, DUO and
arXiv 2605.10518. See `gen_ppl` for what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from imdm_dist.config.evaluation import EvaluationConfig
from imdm_dist.data import Dataset, Tokenizer, load_tokenizer
from imdm_dist.device import default_device
from imdm_dist.evaluation.causal_lm import RECORD, data_tokens, load_causal_lm
from imdm_dist.evaluation.gen_ppl import (
    generative_perplexity,
    generative_perplexity_of_sequences,
    scoring_batch,
)
from imdm_dist.files import read_record

Convention = tuple[str, str]
"""(`ids` or `text`, `all` or `first`)."""
SDTT: Convention = ("ids", "all")
PAPER: Convention = ("text", "first")


def figure_name(convention: Convention) -> str:
    """Key of a convention's figure in result.json."""
    return "gen_ppl_{}_{}".format(*convention)


@dataclass(frozen=True)
class Scorer:
    """A causal language model, and what of samples it can score."""

    lm: PreTrainedModel
    about: dict[str, Any]
    """What a result says of it."""
    data: Dataset
    """What the samples' ids mean."""
    ids: bool
    """Whether it reads the samples' ids as they are."""
    tokenizer: Tokenizer | None
    """That of the texts it reads; None where samples are no text."""

    @property
    def scored(self) -> tuple[str, ...]:
        """What it can score."""
        return (*(("ids",) if self.ids else ()), *(("text",) if self.tokenizer else ()))

    def chosen(self, settings: EvaluationConfig) -> Convention:
        """The convention that settings ask for, as far as it allows it."""
        return (settings.scored if settings.scored in self.scored else self.scored[0]), settings.end_tokens

    def shown(self, settings: EvaluationConfig) -> list[Convention]:
        """The conventions that belong in a table: the one asked for, SDTT's and the paper's."""
        return [one for one in dict.fromkeys((self.chosen(settings), SDTT, PAPER)) if one[0] in self.scored]

    def figures(self, rows: np.ndarray) -> dict[str, float | None]:
        """Gen. PPL of sampled rows by `figure_name` of every convention it allows."""
        length = self.data.train.length
        batch = scoring_batch(self.lm, length)
        found: dict[str, float | None] = {}
        if self.ids:
            of_ids = generative_perplexity(self.lm, rows, batch, self.data.train.eos_id, progress=True)
            found |= {"gen_ppl_ids_all": of_ids.token_level, "gen_ppl_ids_first": of_ids.first_end}
        if self.tokenizer is not None:
            assert self.data.tokenizer is not None, "text is scored where there is text"
            sequences = self.tokenizer.encode_decoded([self.data.tokenizer.decode(row) for row in rows])
            end_id = self.data.train.eos_id if self.ids else self.tokenizer.eos_id
            of_text = generative_perplexity_of_sequences(self.lm, sequences, length, batch, end_id, progress=True)
            found |= {"gen_ppl_text_all": of_text.token_level, "gen_ppl_text_first": of_text.first_end}
        return found


def load_scorer(evaluator: Path | str, data: Dataset) -> Scorer:
    """Make an evaluator ready for samples over the ids of `data`.

    A model trained by `train_evaluator`, or one with the data's own tokenizer, scores ids and text; any other, such as
    GPT-2 on BERT samples, text alone. Where samples are no text, ids are scored.

    Raises:
        ValueError: the evaluator does not load, or was trained here on other tokens.
    """
    lm = load_causal_lm(evaluator, default_device())
    if (Path(evaluator) / RECORD).exists():
        about = read_record(Path(evaluator) / RECORD, tokens=list)
        if about is None:
            raise ValueError(f"{Path(evaluator) / RECORD} is damaged: train the evaluator again")
        if about["tokens"] != data_tokens(data.train):
            raise ValueError(f"{evaluator} was trained on other tokens than this data has: train one on this data")
        return Scorer(lm, about, data, ids=True, tokenizer=data.tokenizer)
    theirs = load_tokenizer(str(evaluator))
    about = {"name": str(evaluator), "tokenizer": theirs.fingerprint}
    if data.tokenizer is None:
        return Scorer(lm, about, data, ids=True, tokenizer=None)
    return Scorer(lm, about, data, ids=theirs.fingerprint == data.tokenizer.fingerprint, tokenizer=theirs)
