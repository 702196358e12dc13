"""Few-step quality of models: validation PPL, and Gen. PPL, entropy and diversity of samples by step count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imdm_dist.checkpoint.model import load_model
from imdm_dist.config.schema import Config
from imdm_dist.data import Dataset
from imdm_dist.device import default_device
from imdm_dist.evaluation.ngram import TrigramModel
from imdm_dist.evaluation.perplexity import perplexities
from imdm_dist.evaluation.result import ResultRecord, mean_figures, table_markdown
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.evaluation.scorer import Scorer, figure_name, load_scorer
from imdm_dist.evaluation.text_metrics import text_figures
from imdm_dist.files import check_name, publish_dir, write_json
from imdm_dist.perplexity import show_perplexity
from imdm_dist.provenance import versions
from imdm_dist.signals import interrupted

SAMPLES_SHOWN = 3
_CONVENTIONS = (
    "Gen. PPL: ids as sampled, or their text in the evaluator's tokens; of samples that begin with an end token, none "
    "comes after the first."
)
TRIGRAM_TOKENS = 50_000_000
"""Tokens that fit in memory as counted trigrams."""


@dataclass(frozen=True)
class Candidate:
    """A model to be evaluated."""

    path: Path
    """Run folder or checkpoint."""
    reference: np.ndarray | None = None
    """Rows whose 8-grams count as copied: the coupling it was trained on."""


def evaluate(
    config: Config,
    data: Dataset,
    candidates: Mapping[str, Candidate],
    evaluator: Path | str | None,
    folder: Path | str,
) -> dict[str, Any]:
    """Evaluate models alike and publish result.json, table.md and the samples in `folder`.

    Args:
        config: sections evaluation and train (valid_rows) count.
        candidates: models by the name they have in the table.
        evaluator: causal language model, as transformers loads it; without one there is no Gen. PPL.

    Returns:
        The content of result.json.

    Raises:
        ValueError: a model or the evaluator is missing or has weights that are not finite, its vocabulary is not the
            data's, or a name cannot be a file's.
    """
    for name in candidates:
        check_name(name, "the name of a model")
    settings, device = config.evaluation, default_device()
    scorer = load_scorer(evaluator, data) if evaluator else None
    scored, end_tokens = scorer.chosen(settings) if scorer else (None, None)
    rows, records, valid_ppl = config.train.valid_rows, [], {}
    with interrupted(lambda: "nothing is kept of this evaluation, it begins anew"), publish_dir(folder) as aside:
        for candidate in candidates.values():  # all, before hours are spent on the first
            load_model(candidate.path, settings.weights).check_data(data)
        for name, candidate in candidates.items():
            loaded = load_model(candidate.path, settings.weights)
            model = loaded.model.to(device)
            valid_ppl[name] = perplexities(model, data.valid, rows, settings.valid_draws, progress=True).to_dict()
            for steps in settings.steps:
                by_seed = []
                for seed in settings.seeds:
                    tokens = draw_samples(model, settings, data.train.length, steps, seed).numpy()
                    np.save(aside / f"samples-{name}-{steps}-{seed}.npy", tokens.astype(np.int32))
                    gen_ppl = scorer.figures(tokens) if scorer else {}
                    if scorer:
                        gen_ppl = {"gen_ppl": gen_ppl[figure_name(scorer.chosen(settings))], **gen_ppl}
                    by_seed.append({**gen_ppl, **text_figures(tokens, candidate.reference)})
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
                    evaluator=scorer.about if scorer else None,
                    scored=scored,
                    end_tokens=end_tokens,
                    clean_up=data.tokenizer.clean_up if data.tokenizer else None,
                )
                records.append(record.to_dict())
        result = {
            "records": records,
            "valid_ppl": valid_ppl,
            "valid_rows": min(rows, data.valid.rows),
            "valid_draws": settings.valid_draws,
            "trigram_valid_ppl": _of_trigram(data, rows),
            "evaluator_valid_ppl": _of_evaluator(scorer, data, rows),
            "gen_ppl_shown": [list(one) for one in scorer.shown(settings)] if scorer else [],
            "evaluator": scorer.about if scorer else None,
            "data": {"train": data.train.fingerprint, "valid": data.valid.fingerprint},
            "versions": versions(),
        }
        write_json(aside / "result.json", result)
        (aside / "table.md").write_text(table(result), encoding="utf-8")
    return result


def _of_trigram(data: Dataset, rows: int) -> dict[str, Any] | None:
    """Validation PPL of a trigram, over the rows that models are validated on; None for text too large to count."""
    if data.train.rows * data.train.length > TRIGRAM_TOKENS:
        return None
    trigram = TrigramModel.fit(data.train.tokens, data.train.vocab_size)
    return perplexities(trigram, data.valid, rows).to_dict()


def _of_evaluator(scorer: Scorer | None, data: Dataset, rows: int) -> dict[str, Any] | None:
    """Validation PPL of the evaluator over the same rows; None where it does not read their ids."""
    if scorer is None or not scorer.ids:
        return None
    return perplexities(scorer.lm, data.valid, rows, progress=True).to_dict()


def table(result: Mapping[str, Any]) -> str:
    """Markdown tables of a result: one row a model and step count, then validation PPL."""
    shown = [tuple(one) for one in result["gen_ppl_shown"]]
    names = [*map(figure_name, shown), "entropy", "distinct_1", "distinct_2", "distinct_3", "copied_8grams"]
    headers = ["model", "steps", *(_heading(*one) for one in shown)]
    if not shown:
        names, headers = ["gen_ppl", *names], [*headers, "Gen. PPL"]
    headers += ["entropy", "distinct-1", "distinct-2", "distinct-3", "copied 8-grams"]
    rows = []
    for record in result["records"]:
        mean = record["figures"]["mean"]
        rows.append([record["model"], record["steps"], *(mean.get(name) for name in names)])
    first = result["records"][0]
    note = (
        f"{first['samples']} samples a seed, seeds {', '.join(map(str, first['seeds']))} (means); {first['weights']} "
        f"weights, {first['draw_precision']} draws, {first['sampler']}, noise policy {first['noise_policy']}."
        + (f" {_CONVENTIONS}" if shown else "")
        + "\n"
    )
    others = {"trigram (modified Kneser-Ney)": result["trigram_valid_ppl"], "evaluator": result["evaluator_valid_ppl"]}
    valid = [
        [name, *(show_perplexity(figures and figures[over]) for over in ("text", "all"))]
        for name, figures in (*result["valid_ppl"].items(), *others.items())
    ]
    header = ["model", f"validation PPL, {result['valid_rows']} rows: text tokens", "all tokens"]
    about = (
        "Text tokens are all but the first and last of a row, which packing forces. ± is the standard error over draws "
        f"of times, masks and noise, {result['valid_draws']} a row, for these rows; the models' figures are upper "
        "bounds. The evaluator's over all tokens leaves out the first of each row.\n"
    )
    return "\n".join((table_markdown(headers, rows), note, table_markdown(header, valid), about))


def _heading(scored: str, end_tokens: str) -> str:
    ends = {"all": "all end tokens", "first": "no end token after the first"}[end_tokens]
    return f"Gen. PPL ({scored}, {ends})"
