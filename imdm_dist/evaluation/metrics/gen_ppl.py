"""Gen. PPL of samples, by every convention that the evaluator allows.

A convention is what is scored, and which end tokens count: `ids, all` is SDTT's; `text, first` that of MDLM, DUO and
arXiv 2605.10518. See `evaluation.gen_ppl` for what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imdm_dist.evaluation.gen_ppl import generative_perplexity, generative_perplexity_of_sequences
from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled, Subject

Convention = tuple[str, str]
"""(`ids` or `text`, `all` or `first`)."""
SDTT: Convention = ("ids", "all")
PAPER: Convention = ("text", "first")
_ENDS = {"all": "all end tokens", "first": "no end token after the first"}


class GenPpl(Metric):
    """Perplexity of samples under the evaluator."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        settings, scorer = subject.settings, subject.scorer
        if scorer is None:
            self.sample_columns = (Column("Gen. PPL", "gen_ppl"),)
            return
        scored = settings.scored if settings.scored in scorer.scored else scorer.scored[0]
        self.chosen: Convention = (scored, settings.end_tokens)  # what settings ask for, as far as it can be had
        shown = [one for one in dict.fromkeys((self.chosen, SDTT, PAPER)) if one[0] in scorer.scored]
        self.sample_columns = [
            Column(f"Gen. PPL ({what}, {_ENDS[ends]})", f"gen_ppl_{what}_{ends}") for what, ends in shown
        ]
        self.notes = (
            "Gen. PPL: ids as sampled, or their text in the evaluator's tokens; of samples that begin with an end "
            "token, none comes after the first.",
        )

    def of_samples(self, sampled: Sampled) -> Figures:
        """gen_ppl_{ids,text}_{all,first}, and gen_ppl, the one that settings choose; nothing without an evaluator."""
        scorer, data, rows_BL = self.subject.scorer, self.subject.data, sampled.rows_BL
        if scorer is None:
            return {}
        found: dict[str, float | None] = {}
        if scorer.ids:
            of_ids = generative_perplexity(scorer.lm, rows_BL, end_id=data.train.eos_id, progress=True)
            found |= {"gen_ppl_ids_all": of_ids.token_level, "gen_ppl_ids_first": of_ids.first_end}
        if scorer.tokenizer is not None:
            assert data.tokenizer is not None, "text is scored where there is text"
            sequences = scorer.tokenizer.encode_decoded([data.tokenizer.decode(row) for row in rows_BL])
            end_id = data.train.eos_id if scorer.ids else scorer.tokenizer.eos_id
            of_text = generative_perplexity_of_sequences(
                scorer.lm, sequences, data.train.length, end_id=end_id, progress=True
            )
            found |= {"gen_ppl_text_all": of_text.token_level, "gen_ppl_text_first": of_text.first_end}
        return {"gen_ppl": found["gen_ppl_{}_{}".format(*self.chosen)], **found}

    def about(self) -> Mapping[str, Any]:
        """The evaluator, and what gen_ppl is of."""
        if self.subject.scorer is None:
            return {}
        scored, end_tokens = self.chosen
        return {"evaluator": self.subject.scorer.about, "scored": scored, "end_tokens": end_tokens}
