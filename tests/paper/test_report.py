"""Reports, tables, result files and plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from imdm_dist.chain import load_chain
from imdm_dist.evaluation.result import ResultRecord, format_cell, mean_figures, table_markdown
from imdm_dist.files import write_json
from imdm_dist.paper import demo, plots
from imdm_dist.paper.published_tables import LM1B_STEPS, TABLE_4
from imdm_dist.paper.report import DemoReport, write_report
from imdm_dist.paper.two_tokens import FORMULAS
from imdm_dist.training.logger import console

ROW = {"validity": 0.4931, "token_entropy": 0.6928, "factorization_error": 0.6931, "factorization_error_mean": 1.386}


def _report() -> DemoReport:
    return DemoReport(
        table1={"mdm": ROW, "imdm": {**ROW, "validity": 0.9987, "factorization_error": 0.0041}},
        table2_rows=[
            {"model": "imdm", "noise": "eps_A", "draw": 1, "token_1": 0.9912, "token_2": 0.9934},
            {"model": "mdm", "noise": "none", "draw": 0, "token_1": 0.4984, "token_2": 0.5011},
        ],
        text_figures=[{"Model": "ReDi, IMDM", "Steps": 2, "Gen. PPL": 301.26, "Entropy": 3.214, "Copied": None}],
        text_samples={"IMDM, 2 steps": ["one\ntwo", "three"]},
        text_notes=["A note."],
        plots={"Validity": "validity.png"},
        provenance={"seed": 0, "pairs": 512, "versions": {"torch": "2"}},
    )


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", tmp_path / "report.md", _report())
    content = json.loads((tmp_path / "report.json").read_text())
    for model in ("mdm", "imdm"):
        assert set(content["table1"][model]) == set(ROW)
    assert content["table1"]["imdm"]["factorization_error"] == 0.0041
    assert content["table2"]["rows"][0]["token_2"] == 0.9934
    assert content["text"]["figures"][0]["Gen. PPL"] == 301.26
    assert content["provenance"]["versions"] == {"torch": "2"}
    assert content["formulas"] == FORMULAS


def test_markdown_holds_ours_beside_the_paper(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", tmp_path / "report.md", _report())
    text = (tmp_path / "report.md").read_text()
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("|")}
    assert lines["| MDM"] == "| MDM | 49.3 % | 49.8 % | 0.693 | 0.690 | 0.693 | 0.693 | 1.386 |"
    assert lines["| IMDM"] == "| IMDM | 99.9 % | 97.7 % | 0.693 | 0.690 | 0.004 | 0.082 | 1.386 |"
    assert lines["| Random sequences"].startswith("| Random sequences | – | 50.0 % |")
    assert lines["| IMDM, eps_A"] == "| IMDM, eps_A | 99.1 % | 98.2 % | 99.3 % | 100.0 % |"
    assert "| ReDi, IMDM | 2 | 301 | 3.21 | – |" in text
    assert "> one two\n>\n> three" in text
    assert "![Validity](validity.png)" in text
    assert "- pairs: 512" in text
    assert all(formula in text for formula in FORMULAS.values())


def test_a_report_without_text_says_nothing_of_it(tmp_path: Path) -> None:
    report = DemoReport(table1={"mdm": ROW}, table2_rows=[], provenance={})
    write_report(tmp_path / "a.json", tmp_path / "a.md", report)
    assert "## Text" not in (tmp_path / "a.md").read_text()


def test_tables() -> None:
    assert table_markdown(["a", "b"], [["x|y", 1.23456], [None, 12345.6]]) == (
        "| a | b |\n|:---|---:|\n| x\\|y | 1.23 |\n| – | 12346 |\n"
    )
    assert [format_cell(value) for value in (3, 0.5, 524.31, 4.2, 1e-9)] == ["3", "0.500", "524", "4.20", "1.00e-09"]


def test_no_figure_is_minus_zero(tmp_path: Path) -> None:
    assert format_cell(-0.0) == "0.00"
    zero = dict.fromkeys(ROW, -0.0) | {"factorization_error": -1e-9}
    write_report(
        tmp_path / "a.json", tmp_path / "a.md", DemoReport(table1={"mdm": zero}, table2_rows=[], provenance={})
    )
    assert "| MDM | 0.0 % | 49.8 % | 0.000 | 0.690 | 0.000 | 0.693 | 0.000 |" in (tmp_path / "a.md").read_text()
    line = {"loss": -0.0, "grad_norm": 0.0, "lr": 0.0, "tokens_per_s": 1.0, "memory_gb": 1.0, "data_wait_s": 0.0}
    assert "loss 0.0000" in console(line)


def test_record_carries_what_a_figure_depends_on(tmp_path: Path) -> None:
    record = ResultRecord(
        model="ReDi, IMDM",
        model_digest="ab",
        weights="ema",
        steps=4,
        noise_policy="posterior",
        seeds=(42, 43),
        samples=256,
        figures=mean_figures([{"entropy": 3.0, "copied_8grams": None}, {"entropy": 4.0, "copied_8grams": None}]),
    )
    write_json(tmp_path / "result.json", record.to_dict())
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["figures"] == {"entropy": 3.5, "copied_8grams": None}
    assert content["seeds"] == [42, 43]
    assert content["draw_precision"] == "float64"
    assert "torch" in content["versions"]
    assert {"weights", "sampler", "noise_policy", "steps", "model_digest"} <= set(content)


def test_plots_are_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    decided = np.repeat(rng.integers(0, 2, (500, 1)).astype(float), 2, axis=1)
    steps = list(range(0, 2000, 50))
    plots.plot_validity(tmp_path / "validity.png", {"mdm": 0.503, "imdm": 0.998})
    plots.plot_token_probabilities(tmp_path / "probabilities.png", {"mdm": np.full((500, 2), 0.498), "imdm": decided})
    plots.plot_losses(
        tmp_path / "losses.png", {"MDM": (steps, [1 / (1 + step) for step in steps]), "One": ([0], [1.0])}
    )
    plots.plot_gen_ppl(tmp_path / "gen_ppl.png", {name: (LM1B_STEPS, row) for name, row in TABLE_4.items()})
    for name in ("validity", "probabilities", "losses", "gen_ppl"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("values", [(271.3, 288.0, 296.4), (212, 290, 233), (48, 900), (3, 4e4), (300, 300), (99.5,)])
def test_the_perplexity_axis_has_several_ticks(values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_publish", lambda figure, path: figures.append(figure))
    plots.plot_gen_ppl("gen_ppl.png", {"IMDM": ([2**place for place in range(len(values))], values)})
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert 4 <= len(shown) == len(set(shown)) <= 12
    assert all(low <= float(text) <= high for text in shown)
    assert low <= min(values) <= max(values) <= high


@pytest.mark.parametrize(("name", "drawn"), [(demo.SYNTHETIC, demo.SYNTHETIC_TRAINED), (demo.TEXT, demo.TEXT_TRAINED)])
def test_the_losses_of_every_trained_stage_are_drawn(name: str, drawn: tuple[str, ...]) -> None:
    chain = load_chain(Path(__file__).resolve().parents[2] / "configs" / name)
    assert drawn == tuple(stage.name for stage in chain.stages if stage.kind == "train")


def test_a_plot_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        plots.plot_validity(tmp_path / "validity.png", {"unknown": 0.5})
    assert not list(tmp_path.iterdir())
