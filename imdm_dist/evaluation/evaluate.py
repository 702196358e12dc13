"""Few-step quality of models: validation PPL, and Gen. PPL, entropy and diversity of samples by step count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imdm_dist.config.schema import Config
from imdm_dist.data import Dataset, load_tokenizer
from imdm_dist.device import default_device
from imdm_dist.evaluation.causal_lm import RECORD, data_tokens, load_causal_lm
from imdm_dist.evaluation.gen_ppl import generative_perplexity, generative_perplexity_of_texts
from imdm_dist.evaluation.ngram import TrigramModel
from imdm_dist.evaluation.result import ResultRecord, mean_figures, table_markdown
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.evaluation.text_metrics import text_figures
from imdm_dist.files import check_name, publish_dir, read_json, write_json
from imdm_dist.objectives.validation import validation_perplexity
from imdm_dist.provenance import versions
from imdm_dist.signals import interrupted
from imdm_dist.training.checkpoint import load_model

SAMPLES_SHOWN = 3
TRIGRAM_TOKENS = 50_000_000
"""Tokens that fit in memory as counted trigrams."""
SCORED_LOGITS = 2**27
"""Logits of the evaluator that exist at a time: half a gigabyte."""


@dataclass(frozen=True)
class Candidate:
    """A model to be evaluated."""

    path: Path
    """Run folder or checkpoint."""
    reference: np.ndarray | None = None
    """Rows whose 8-grams count as copied: the coupling it was trained on."""


def evaluate(
    config: Config, data: Dataset, candidates: Mapping[str, Candidate], evaluator: Path | str, folder: Path | str
) -> dict[str, Any]:
    """Evaluate models alike and publish result.json, table.md and the samples in `folder`.

    Args:
        config: sections evaluation and train (valid_rows) count.
        candidates: models by the name they have in the table.
        evaluator: causal language model over the same tokens, as transformers loads it.

    Returns:
        The content of result.json.

    Raises:
        ValueError: a model or the evaluator is missing, its vocabulary is not the data's, or a name cannot be a file's.
    """
    for name in candidates:
        check_name(name, "the name of a model")
    settings, device = config.evaluation, default_device()
    score, scored_by = scorer(evaluator, data)
    records, perplexities = [], {}
    with interrupted(lambda: "nothing is kept of this evaluation, it begins anew"), publish_dir(folder) as aside:
        for name, candidate in candidates.items():
            loaded = load_model(candidate.path, settings.weights)
            loaded.check_data(data)
            model = loaded.model.to(device)
            perplexities[name] = validation_perplexity(model, data.valid, config.train.valid_rows)
            for steps in settings.steps:
                by_seed = []
                for seed in settings.seeds:
                    tokens = draw_samples(model, settings, data.train.length, steps, seed).numpy()
                    np.save(aside / f"samples-{name}-{steps}-{seed}.npy", tokens.astype(np.int32))
                    by_seed.append({"gen_ppl": score(tokens), **text_figures(tokens, candidate.reference)})
                texts = [data.tokenizer.decode(row) for row in tokens[:SAMPLES_SHOWN]] if data.tokenizer else []
                record = ResultRecord(
                    model=name,
                    model_digest=loaded.digest,
                    weights=settings.weights,
                    steps=steps,
                    noise_policy=settings.noise_policy,
                    seeds=settings.seeds,
                    samples=settings.samples,
                    figures={"mean": mean_figures(by_seed), "by_seed": by_seed, "texts": texts},
                    evaluator=scored_by,
                )
                records.append(record.to_dict())
        result = {
            "records": records,
            "valid_ppl": perplexities,
            "valid_rows": min(config.train.valid_rows, data.valid.rows),
            "trigram_valid_ppl": trigram_perplexity(data, config.train.valid_rows),
            "evaluator": scored_by,
            "data": {"train": data.train.fingerprint, "valid": data.valid.fingerprint},
            "versions": versions(),
        }
        write_json(aside / "result.json", result)
        (aside / "table.md").write_text(table(result), encoding="utf-8")
    return result


def scorer(evaluator: Path | str, data: Dataset) -> tuple[Callable[[np.ndarray], float], dict[str, Any]]:
    """Gen. PPL under a language model, and what to say about it.

    A model trained by `train_evaluator`, or one with the data's own tokenizer, scores the ids as they are; any other,
    such as GPT-2 on BERT samples, scores the decoded text in tokens of its own.

    Raises:
        ValueError: the evaluator does not load, or was trained here on other tokens.
    """
    lm = load_causal_lm(evaluator, default_device())
    batch = max(1, SCORED_LOGITS // (data.train.length * lm.config.vocab_size))
    about: dict[str, Any]
    if (Path(evaluator) / RECORD).exists():
        about = read_json(Path(evaluator) / RECORD)
        if about["tokens"] != data_tokens(data.train):
            raise ValueError(f"{evaluator} was trained on other tokens than this data has: train one on this data")
        own = True
    else:
        theirs = load_tokenizer(str(evaluator))
        about = {"name": str(evaluator), "tokenizer": theirs.fingerprint}
        own = data.tokenizer is not None and theirs.fingerprint == data.tokenizer.fingerprint
    if own or data.tokenizer is None:
        return lambda rows: generative_perplexity(lm, rows, batch).token_level, {**about, "scored": "ids as sampled"}
    tokenizer, length = data.tokenizer, data.train.length

    def score_text(rows: np.ndarray) -> float:
        texts = [tokenizer.decode(row) for row in rows]
        return generative_perplexity_of_texts(lm, theirs.fast, texts, length, batch).token_level

    return score_text, {**about, "scored": "decoded text, special tokens by name, in the evaluator's tokens"}


def trigram_perplexity(data: Dataset, valid_rows: int) -> float | None:
    """Validation PPL of a trigram, over the rows that models are validated on; None for text too large to count."""
    if data.train.rows * data.train.length > TRIGRAM_TOKENS:
        return None
    return TrigramModel.fit(data.train.tokens, data.train.vocab_size).perplexity(data.valid.tokens[:valid_rows])


def table(result: Mapping[str, Any]) -> str:
    """Markdown tables of a result: one row a model and step count, then validation PPL."""
    headers = ["model", "steps", "Gen. PPL", "entropy", "distinct-1", "distinct-2", "distinct-3", "copied 8-grams"]
    names = ("gen_ppl", "entropy", "distinct_1", "distinct_2", "distinct_3", "copied_8grams")
    rows = []
    for record in result["records"]:
        mean = record["figures"]["mean"]
        rows.append([record["model"], record["steps"], *(mean.get(name) for name in names)])
    first = result["records"][0]
    note = (
        f"{first['samples']} samples a seed, seeds {', '.join(map(str, first['seeds']))} (means); {first['weights']} "
        f"weights, {first['draw_precision']} draws, {first['sampler']}, noise policy {first['noise_policy']}.\n"
    )
    valid = [[name, value] for name, value in result["valid_ppl"].items()]
    valid.append(["trigram (modified Kneser-Ney)", result["trigram_valid_ppl"]])
    header = ["model", f"validation PPL, {result['valid_rows']} rows"]
    return "\n".join((table_markdown(headers, rows), note, table_markdown(header, valid)))
