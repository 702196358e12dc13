"""Records of a result file, and how figures look in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from imdm_dist.config.evaluation import EvaluationConfig
from imdm_dist.config.setting import Weights
from imdm_dist.diffusion.draw_source import DRAW_PRECISION
from imdm_dist.diffusion.sampler import SAMPLER
from imdm_dist.perplexity import show_perplexity, with_error
from imdm_dist.versions import versions


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """Figures of one model at one step count.

    Gen. PPL is comparable only at equal draw precision, sampler, weights and number of samples: hence they stand here.
    """

    model: str
    """What the model is called in tables."""
    model_digest: str
    """SHA-256 of the weights that were used."""
    weights: Weights
    """Moving average or raw."""
    steps: int
    """Sampling steps N."""
    noise_policy: str
    """Mask noise between two steps: posterior, fixed or fresh."""
    seeds: tuple[int, ...]
    """Sampling seeds."""
    samples: int
    """Sequences per seed."""
    figures: Mapping[str, Any]
    """Numbers by name; None where a figure is not defined."""
    evaluator: Mapping[str, Any] | None = None
    """The language model behind gen_ppl, and how its tokens were counted."""
    scored: str | None = None
    """What gen_ppl is of: `ids` as sampled, or decoded `text` in the evaluator's tokens; None without an evaluator."""
    end_tokens: str | None = None
    """Which end tokens gen_ppl counts: `all`, or none after the `first` of a sample; None without an evaluator."""
    clean_up: bool | None = None
    """Whether spaces around signs were taken out of decoded text; None where there is no text."""
    sampler: str = SAMPLER
    """How samples were drawn, and by which source if not the usual one."""
    draw_precision: str = DRAW_PRECISION
    """Precision of softmax and token draw."""
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "seeds": list(self.seeds)}


def sampler_of(source: str) -> str:
    """What a result says of how samples were drawn with `evaluation.source`."""
    return SAMPLER if source == EvaluationConfig.source else f"{SAMPLER}, draws by {source}"


def mean_figures(figures_by_seed: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of every figure over the seeds, and standard errors (`x_se`) of these means; None where some seed has none.

    Seeds are independent.
    """
    means: dict[str, float | None] = {}
    for name in figures_by_seed[0]:
        values = [figures[name] for figures in figures_by_seed]
        present = [value for value in values if value is not None]
        total = math.hypot(*present) if name.endswith("_se") else sum(present)
        means[name] = total / len(present) if len(present) == len(values) else None
    return means


def format_figure(figures: Mapping[str, Any], name: str) -> str | None | float:
    """The figure of that name for a table's cell, with its standard error if it has one; None where there is none."""
    value, error = figures.get(name), figures.get(f"{name}_se")
    if isinstance(value, Mapping):
        return show_perplexity(value)
    return with_error(value, error) if value is not None and error else value


def format_cell(value: object, digits: int = 3) -> str:
    """A table cell: floats to `digits` significant digits (whole parts whole), None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:z#.{digits}g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table_markdown(headers: Sequence[str], rows: Sequence[Sequence[object]], digits: int = 3) -> str:
    """A GitHub table; the first column is aligned left, the others right."""
    lines = ["| " + " | ".join(headers) + " |"]
    lines.append("|" + "|".join([":---"] + ["---:"] * (len(headers) - 1)) + "|")
    for row in rows:
        assert len(row) == len(headers), "a table row has as many cells as there are headers"
        lines.append("| " + " | ".join(format_cell(cell, digits) for cell in row) + " |")
    return "\n".join(lines) + "\n"
