"""Few-step quality of models: validation PPL, and Gen. PPL, entropy and diversity of samples by step count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imdm_dist.config.schema import Config
from imdm_dist.data import Dataset
from imdm_dist.evaluation.causal_lm import RECORD, load_causal_lm
from imdm_dist.evaluation.gen_ppl import generative_perplexity
from imdm_dist.evaluation.ngram import TrigramModel
from imdm_dist.evaluation.result import ResultRecord, mean_figures, table_markdown
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.evaluation.text_metrics import text_figures
from imdm_dist.files import publish_dir, read_json, write_json
from imdm_dist.objectives.validation import validation_perplexity
from imdm_dist.provenance import versions
from imdm_dist.training.checkpoint import load_model

SAMPLES_SHOWN = 3


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
        ValueError: a model or the evaluator is missing, or its vocabulary is not the data's.
    """
    lm = load_causal_lm(evaluator)
    about = Path(evaluator) / RECORD
    scored_by = read_json(about) if about.exists() else {"name": str(evaluator)}
    settings = config.evaluation
    records, perplexities = [], {}
    with publish_dir(folder) as aside:
        for name, candidate in candidates.items():
            loaded = load_model(candidate.path, settings.weights)
            if loaded.model.vocab_size != data.train.vocab_size:
                raise ValueError(
                    f"{name} has vocabulary {loaded.model.vocab_size}, the data {data.train.vocab_size}: "
                    "evaluate with the data settings it was trained with"
                )
            perplexities[name] = validation_perplexity(loaded.model, data.valid, config.train.valid_rows)
            for steps in settings.steps:
                by_seed = []
                for seed in settings.seeds:
                    tokens = draw_samples(loaded.model, settings, data.train.length, steps, seed).numpy()
                    np.save(aside / f"samples-{name.replace(' ', '_')}-{steps}-{seed}.npy", tokens.astype(np.int32))
                    figures = text_figures(tokens, candidate.reference)
                    by_seed.append({"gen_ppl": generative_perplexity(lm, tokens).token_level, **figures})
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
        trigram = TrigramModel.fit(data.train.tokens, data.train.vocab_size)
        result = {
            "records": records,
            "valid_ppl": perplexities,
            "trigram_valid_ppl": trigram.perplexity(data.valid.tokens),
            "evaluator": scored_by,
            "data": {"train": data.train.fingerprint, "valid": data.valid.fingerprint},
            "versions": versions(),
        }
        write_json(aside / "result.json", result)
        (aside / "table.md").write_text(table(result), encoding="utf-8")
    return result


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
    return "\n".join((table_markdown(headers, rows), note, table_markdown(["model", "validation PPL"], valid)))
