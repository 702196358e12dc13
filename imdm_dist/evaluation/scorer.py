"""An evaluator, loaded, and what of samples it can score: their ids, their text, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from imdm_dist.data import Dataset, Tokenizer, load_tokenizer
from imdm_dist.device import default_device
from imdm_dist.evaluation.causal_lm import RECORD, data_tokens, load_causal_lm
from imdm_dist.files import read_record


@dataclass(frozen=True)
class Scorer:
    """A causal language model, and what of samples it can score."""

    lm: PreTrainedModel
    about: dict[str, Any]
    """What a result says of it."""
    ids: bool
    """Whether it reads the samples' ids as they are."""
    tokenizer: Tokenizer | None
    """That of the texts it reads; None where samples are no text."""

    @property
    def scored(self) -> tuple[str, ...]:
        """What it can score."""
        return (*(("ids",) if self.ids else ()), *(("text",) if self.tokenizer else ()))


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
        return Scorer(lm, about, ids=True, tokenizer=data.tokenizer)
    theirs = load_tokenizer(str(evaluator))
    about = {"name": str(evaluator), "tokenizer": theirs.fingerprint}
    if data.tokenizer is None:
        return Scorer(lm, about, ids=True, tokenizer=None)
    return Scorer(lm, about, ids=theirs.fingerprint == data.tokenizer.fingerprint, tokenizer=theirs)
