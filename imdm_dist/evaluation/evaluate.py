"""Evaluation of models: what the metrics of `evaluation.metrics` say of them and of their samples, in a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imdm_dist.checkpoint.model import LoadedModel, load_model
from imdm_dist.config.schema import Config
from imdm_dist.data import Dataset
from imdm_dist.device import default_device
from imdm_dist.evaluation.metric import Column, Figures, Metric, Sampled, Subject
from imdm_dist.evaluation.result import ResultRecord, format_figure, mean_figures, sampler_of, table_markdown
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.evaluation.scorer import load_scorer
from imdm_dist.files import check_name, publish_dir, write_json
from imdm_dist.registry import METRICS
from imdm_dist.signals import interrupted
from imdm_dist.versions import versions

SAMPLES_SHOWN = 3


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
        ValueError: a model, the evaluator or a metric is missing, weights are not finite, the evaluator's vocabulary is
            not the data's, or a name cannot be a file's.
    """
    for name in candidates:
        check_name(name, "the name of a model")
    settings = config.evaluation
    classes = {name: METRICS.get(name) for name in settings.metrics}
    scorer = load_scorer(evaluator, data) if evaluator else None
    subject = Subject(settings, data, config.train.valid_rows, scorer)
    metrics: dict[str, Metric] = {name: metric(subject) for name, metric in classes.items()}
    records: list[dict[str, Any]] = []
    of_models: dict[str, dict[str, Figures]] = {}
    with interrupted(lambda: "nothing is kept of this evaluation, it begins anew"), publish_dir(folder) as aside:
        for candidate in candidates.values():  # all, before hours are spent on the first
            load_model(candidate.path, settings.weights).check_data(data)
        for label, candidate in candidates.items():
            loaded = load_model(candidate.path, settings.weights)
            loaded.model.to(default_device())
            for name, metric in metrics.items():
                if (figures := metric.of_model(loaded.model)) is not None:
                    of_models.setdefault(name, {})[label] = figures
            if any(type(metric).of_samples is not Metric.of_samples for metric in metrics.values()):
                records += _of_samples(label, loaded, candidate.reference, subject, metrics.values(), aside)
        baselines = {name: metric.of_baseline() for name, metric in metrics.items() if metric.baseline}
        result: dict[str, Any] = {
            "metrics": list(metrics),
            "records": records,
            **of_models,
            **{f"{name}_valid_ppl": figures for name, figures in baselines.items()},
            "valid_rows": min(subject.valid_rows, data.valid.rows),
            "valid_draws": settings.valid_draws,
            "evaluator": scorer.about if scorer else None,
            "data": {"train": data.train.fingerprint, "valid": data.valid.fingerprint},
            "versions": versions(),
        }
        write_json(aside / "result.json", result)
        rows: dict[str, Figures] = {
            label: _merged(of.get(label, {}) for of in of_models.values()) for label in candidates
        }
        rows |= {metrics[name].baseline: figures or {} for name, figures in baselines.items()}
        tables = [_table_of_samples(records, metrics.values()), _table_of_models(rows, metrics.values())]
        (aside / "table.md").write_text("\n".join(filter(None, tables)), encoding="utf-8")
    return result


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _of_samples(
    label: str,
    loaded: LoadedModel,
    reference_PL: np.ndarray | None,
    subject: Subject,
    metrics: Collection[Metric],
    folder: Path,
) -> list[dict[str, Any]]:
    """Draw a model's samples, keep them in `folder`, and measure them: a `ResultRecord` for each step count."""
    settings, data, records = subject.settings, subject.data, []
    for steps in settings.steps:
        by_seed = []
        for seed in settings.seeds:
            rows_BL = draw_samples(loaded.model, settings, data.train.length, steps, seed).numpy()
            np.save(folder / f"samples-{label}-{steps}-{seed}.npy", rows_BL.astype(np.int32))
            sampled = Sampled(rows_BL, loaded.model, steps, seed, reference_PL)
            by_seed.append(_merged(metric.of_samples(sampled) for metric in metrics))
        texts = [data.tokenizer.decode(row) for row in rows_BL[:SAMPLES_SHOWN]] if data.tokenizer else []
        record = ResultRecord(
            model=label,
            model_digest=loaded.digest,
            weights=settings.weights,
            steps=steps,
            noise_policy=settings.noise_policy,
            seeds=settings.seeds,
            samples=settings.samples,
            figures={"mean": mean_figures(by_seed), "by_seed": by_seed, "texts": texts},
            clean_up=data.tokenizer.clean_up if data.tokenizer else None,
            sampler=sampler_of(settings.source),
            **_merged(metric.about() for metric in metrics),
        )
        records.append(record.to_dict())
    return records


def _table_of_samples(records: list[dict[str, Any]], metrics: Collection[Metric]) -> str:
    if not records:
        return ""
    columns = [column for metric in metrics for column in metric.sample_columns]
    rows = []
    for record in records:
        mean = record["figures"]["mean"]
        rows.append([record["model"], record["steps"], *(format_figure(mean, column.figure) for column in columns)])
    first = records[0]
    note = (
        f"{first['samples']} samples a seed, seeds {', '.join(map(str, first['seeds']))} (means); {first['weights']} "
        f"weights, {first['draw_precision']} draws, {first['sampler']}, noise policy {first['noise_policy']}."
    )
    notes = [note, *(note for metric in metrics if metric.sample_columns for note in metric.notes)]
    return table_markdown(["model", "steps", *(column.head for column in columns)], rows) + f"\n{' '.join(notes)}\n"


def _table_of_models(figures_by_row: Mapping[str, Figures], metrics: Collection[Metric]) -> str:
    shown = [metric for metric in metrics if metric.model_columns]
    columns: dict[Column, None] = dict.fromkeys(column for metric in shown for column in metric.model_columns)
    if not columns:
        return ""
    rows = [[name, *(format_figure(of, column.figure) for column in columns)] for name, of in figures_by_row.items()]
    notes = dict.fromkeys(note for metric in shown for note in metric.notes)
    return table_markdown(["model", *(column.head for column in columns)], rows) + f"\n{' '.join(notes)}\n"
