"""The report of a demo run, as report.json (for programs) and report.md (for reading)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imdm_dist.evaluation.result import table_markdown
from imdm_dist.files import publish_file, write_json
from imdm_dist.paper import published_tables
from imdm_dist.paper.two_tokens import FORMULAS

_NAMES = {"mdm": "MDM", "imdm": "IMDM", "random": "Random sequences"}
_TABLE_1 = ("validity", "token_entropy", "factorization_error", "factorization_error_mean")


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What a report says. `table1` and `table2_rows` are as `table1_row` and `table2_rows` of `synthetic` make them."""

    table1: Mapping[str, Mapping[str, float]]
    """Figures of `mdm` and `imdm`."""
    table2_rows: Sequence[Mapping[str, Any]]
    """P(token = 0) by model and noise."""
    provenance: Mapping[str, Any]
    """Seeds, pairs, steps, digests, versions: shown as a list, nested mappings in JSON only."""
    text_figures: Sequence[Mapping[str, Any]] = ()
    """One mapping per model and step count, all with the same keys: the columns of a table."""
    text_samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Texts by heading, such as "IMDM, 4 steps"."""
    text_notes: Sequence[str] = ()
    """Sentences under the text's table: conventions, what disagrees with the paper."""
    plots: Mapping[str, str] = field(default_factory=dict)
    """Path relative to the report, by caption."""

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "table1": {model: dict(row) for model, row in self.table1.items()},
            "table2": {"rows": [dict(row) for row in self.table2_rows]},
            "text": {
                "figures": [dict(row) for row in self.text_figures],
                "samples": {title: list(texts) for title, texts in self.text_samples.items()},
                "notes": list(self.text_notes),
            },
            "formulas": FORMULAS,
            "paper": {"table1": published_tables.TABLE_1, "table2": {"rows": published_tables.TABLE_2}},
            "plots": dict(self.plots),
            "provenance": dict(self.provenance),
        }


def write_report(path_json: Path | str, path_md: Path | str, report: DemoReport) -> None:
    """Publish both files."""
    write_json(path_json, report.to_dict())
    with publish_file(path_md) as aside:
        aside.write_text(report_markdown(report), encoding="utf-8")


def report_markdown(report: DemoReport) -> str:
    """The report as GitHub Markdown."""
    parts = ["# Report\n", _synthetic(report)]
    if report.text_figures or report.text_samples:
        parts.append(_text(report))
    if report.plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{caption}]({path})\n" for caption, path in report.plots.items()))
    flat = {key: value for key, value in report.provenance.items() if not isinstance(value, Mapping | list)}
    parts.append("## Provenance\n\n" + "".join(f"- {key}: {value}\n" for key, value in flat.items()))
    return "\n".join(parts)


def _nats(value: float | None) -> str | None:
    return None if value is None else f"{value:z.3f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:z.1f} %"


def _synthetic(report: DemoReport) -> str:
    rows = []
    for model in (*report.table1, *(name for name in published_tables.TABLE_1 if name not in report.table1)):
        ours, theirs = report.table1.get(model, {}), published_tables.TABLE_1.get(model, {})
        cells: list[object] = [_NAMES.get(model, model)]
        for name in _TABLE_1:
            show = _percent if name == "validity" else _nats
            cells += [show(ours.get(name)), show(theirs.get(name))]
        rows.append(cells[:-1])
    table_1 = table_markdown(
        ["Model", "Validity", "paper", "Token entropy", "paper", "Error, reading 1", "paper", "Error, reading 2"], rows
    )
    in_paper = {(row["model"], row["noise"]): row for row in published_tables.TABLE_2}
    rows = []
    for row in report.table2_rows:
        theirs_2 = in_paper[row["model"], row["noise"]]
        cells = [f"{_NAMES[row['model']]}, {row['noise']}"]
        for token in ("token_1", "token_2"):
            cells += [_percent(row[token]), _percent(float(theirs_2[token]))]
        rows.append(cells)
    table_2 = table_markdown(["Model, noise", "Token 1", "paper", "Token 2", "paper"], rows)
    formulas = "".join(f"- `{name}`: {formula}\n" for name, formula in FORMULAS.items())
    return (
        "## Two tokens, {00, 11}, one step (Sec. 5.2)\n\n"
        "Columns headed *paper* are the figures of arXiv 2605.10518; it gives one error, without a formula.\n\n"
        f"**Table 1**\n\n{table_1}\n"
        "Error, reading 1 is `factorization_error`, reading 2 `factorization_error_mean`:\n\n"
        f"{formulas}\n"
        f"**Table 2**: P(token = 0); eps_A and eps_B are the first noise draws that decide 00 and 11\n\n{table_2}"
    )


def _text(report: DemoReport) -> str:
    parts = ["## Text\n"]
    if report.text_figures:
        headers = list(report.text_figures[0])
        parts.append(table_markdown(headers, [[row[name] for name in headers] for row in report.text_figures]))
    parts += [f"{note}\n" for note in report.text_notes]
    for title, texts in report.text_samples.items():
        quotes = "\n>\n".join("> " + " ".join(text.split()) for text in texts)
        parts.append(f"**{title}**\n\n{quotes}\n")
    return "\n".join(parts)
