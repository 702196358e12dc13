"""Plots of a report: PNG files, published whole.

Shape suffixes: K noise draws; a trailing 2 the two positions of the synthetic task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imdm_dist.files import publish_file
from imdm_dist.paper import published_tables

_NAMES = {"mdm": "MDM", "imdm": "IMDM"}
_COLOURS = {"mdm": "#6b7a8f", "imdm": "#d1495b"}
# Colours that people with colour-vision deficiency tell apart (Okabe and Ito).
_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}

Curve = tuple[Sequence[float], Sequence[float]]


def _publish(figure: Figure, path: Path | str) -> None:
    with publish_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150, bbox_inches="tight", facecolor="white")


@rc_context(_STYLE)
def plot_validity(path: Path | str, validity: Mapping[str, float]) -> None:
    """Bars of the share of valid one-step samples of `mdm` and `imdm`, ours beside the paper's Table 1."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False, axis="x")
    for place, (model, ours) in enumerate(validity.items()):
        for offset, value, alpha, label in (
            (-0.2, ours, 1.0, "ours"),
            (0.2, published_tables.TABLE_1[model]["validity"], 0.45, "paper"),
        ):
            axes.bar(place + offset, 100 * value, width=0.36, color=_COLOURS[model], alpha=alpha)
            axes.annotate(
                f"{label}\n{100 * value:.1f} %",
                (place + offset, 100 * value),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    axes.axhline(50, color="#333333", linestyle="--", linewidth=1)
    axes.annotate(
        "independent\ntokens", (1.01, 50), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="#333333"
    )
    axes.set(ylim=(0, 119), yticks=range(0, 101, 25), ylabel="valid samples (%)", title="One-step samples of {00, 11}")
    axes.set_xticks(range(len(validity)), [_NAMES[model] for model in validity])
    _publish(figure, path)


@rc_context(_STYLE)
def plot_token_probabilities(path: Path | str, zero_K2_by_model: Mapping[str, np.ndarray]) -> None:
    """P(token = 0) over noise draws: histogram for the first position, and the two positions against each other."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 41).tolist()
    for model, zero_K2 in zero_K2_by_model.items():
        left.hist(
            zero_K2[:, 0],
            bins=bins,
            weights=np.full(len(zero_K2), 100 / len(zero_K2)),
            color=_COLOURS[model],
            alpha=0.75,
            label=_NAMES[model],
        )
        size, edge = (70, "white") if np.ptp(zero_K2) < 1e-6 else (9, "none")
        right.scatter(
            zero_K2[:2000, 0], zero_K2[:2000, 1], s=size, color=_COLOURS[model], edgecolors=edge, alpha=0.6,
            label=_NAMES[model], zorder=3,
        )  # fmt: skip
    left.set(xlim=(0, 1), xlabel="P(token 1 = 0)", ylabel="noise draws (%)", title="What a noise draw decides")
    right.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
        xlabel="P(token 1 = 0)",
        ylabel="P(token 2 = 0)",
        title="Both tokens under one noise",
    )
    left.legend()
    right.legend(loc="upper left")
    _publish(figure, path)


@rc_context(_STYLE)
def plot_losses(path: Path | str, curves: Mapping[str, Curve], unit: str = "nats per masked token") -> None:
    """Training losses against steps, one panel per stage: the raw line pale, a running mean over it.

    Args:
        path: the PNG file.
        curves: (steps, losses) by stage, as metrics.jsonl has them.
        unit: what a loss is measured in.
    """
    columns = 2 if len(curves) == 4 else min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, (name, (steps, losses)) in enumerate(curves.items()):
        colour = _CYCLE[place % len(_CYCLE)]
        panels[place].plot(steps, losses, color=colour, alpha=0.3, linewidth=0.8)
        panels[place].plot(steps, _running_mean(np.asarray(losses, dtype=float)), color=colour, linewidth=1.8)
        panels[place].set(title=name, xlabel="optimizer step")
        if place % columns == 0:
            panels[place].set_ylabel(f"loss ({unit})")
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    _publish(figure, path)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last twentieth of the curve up to each point; shorter at the start."""
    width = max(1, len(values) // 20)
    sums = np.concatenate(([0.0], values.cumsum()))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return (sums[last] - sums[first]) / (last - first)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, from three to a dozen, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) >= 4:
            return ticks
    # Far less than a decade, so the ticks of a linear axis do.
    linear = MaxNLocator(5, steps=(1, 2, 2.5, 5, 10), min_n_ticks=4).tick_values(low, high)
    return [float(tick) for tick in linear if low <= tick <= high]


@rc_context(_STYLE)
def plot_gen_ppl(path: Path | str, curves: Mapping[str, Curve], evaluator: str = "evaluator") -> None:
    """Gen. PPL against sampling steps, both logarithmic.

    Args:
        path: the PNG file.
        curves: (step counts, perplexities) by model; names that differ in MDM, MDLM and IMDM alone share a colour, and
            IMDM is drawn solid, the others dashed.
        evaluator: whose perplexity it is, for the axis.
    """
    figure = Figure(figsize=(5.8, 4), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for name, (steps, values) in curves.items():
        method = re.sub(r"I?MDL?M", "", name)
        colour = colours.setdefault(method, _CYCLE[len(colours) % len(_CYCLE)])
        line = "-" if "IMDM" in name else "--"
        axes.plot(steps, values, line, marker="o", markersize=5, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="sampling steps", ylabel=f"Gen. PPL ({evaluator}), lower is better")
    axes.minorticks_off()
    steps_drawn = sorted({step for steps, _ in curves.values() for step in steps})
    axes.set_xticks(steps_drawn, [f"{tick:g}" for tick in steps_drawn])
    values_drawn = _log_ticks(*axes.get_ylim())
    axes.set_yticks(values_drawn, [f"{tick:g}" for tick in values_drawn])
    axes.legend(fontsize=8)
    _publish(figure, path)
