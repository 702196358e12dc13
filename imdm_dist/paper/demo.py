"""The demonstration: the paper's two-token experiment and a short text chain, with one report."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imdm_dist import draws
from imdm_dist.chain.chain import load_chain
from imdm_dist.chain.runner import run_chain
from imdm_dist.checkpoint.model import load_model
from imdm_dist.config import EvaluationConfig, NoisePolicy, Weights
from imdm_dist.coupling import Coupling
from imdm_dist.diffusion.draw_source import DRAW_PRECISION
from imdm_dist.diffusion.sampler import SAMPLER
from imdm_dist.draws import Purpose
from imdm_dist.error_boundary import guarded
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.files import read_json
from imdm_dist.paper import plots
from imdm_dist.paper.report import DemoReport, write_report
from imdm_dist.paper.two_tokens import NOISE_DRAWS, noise_response, table1_row, table2_rows
from imdm_dist.perplexity import show_perplexity
from imdm_dist.training.metrics import read_metrics
from imdm_dist.versions import versions

SYNTHETIC, TEXT = "demo_synthetic_chain.yaml", "demo_text_chain.yaml"
SYNTHETIC_TRAINED = ("mdm", "mdm_redi", "imdm_redi")
TEXT_TRAINED = ("teacher", "imdm_sdtt", "imdm_redi")
"""The trained stages of each, whose losses are drawn."""
SAMPLES = 5000
"""One-step samples of Table 1."""
WEIGHTS: Weights = "ema"
NOISE_POLICY: NoisePolicy = "posterior"


def run_demo(configs: Path, root: Path, seed: int) -> dict[str, Any]:
    """Run both chains, or what is missing of them, and write report.json, report.md and plots in `root`.

    Args:
        configs: folder of the chains' files.
        seed: seed of all training runs; couplings and evaluations take seeds derived from it.

    Returns:
        The content of report.json.
    """
    started = time.monotonic()
    overrides = [f"train.seed={seed}", f"coupling.seed={1000 + seed}", f"evaluation.seeds=[{2000 + seed}]"]
    # Models this small gain nothing from a second thread, and lose much where other processes want the cores: so each
    # chain has one thread, and the two run side by side.
    torch.set_num_threads(1)
    log = root / "synthetic.log"
    print(f"the two-token chain runs beside the text chain, its progress is in {log}", file=sys.stderr)
    beside = multiprocessing.get_context("spawn").Process(
        target=_run_beside, args=(configs / SYNTHETIC, overrides, root, log)
    )
    beside.start()
    try:
        text = run_chain(load_chain(configs / TEXT, overrides), root)
        beside.join()
    finally:
        beside.terminate()
    if beside.exitcode:
        raise ValueError(f"the two-token chain failed: see the end of {log}, and run the same command again")
    synthetic = run_chain(load_chain(configs / SYNTHETIC, overrides), root)
    report = _report(synthetic, text, root, seed, started)
    write_report(root / "report.json", root / "report.md", report)
    return report.to_dict()


def _run_beside(chain: Path, overrides: list[str], root: Path, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = open(log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (a traceback is to go there too)
    torch.set_num_threads(1)

    def run() -> None:
        run_chain(load_chain(chain, overrides), root)

    guarded(run)


def _report(synthetic: dict[str, Path], text: dict[str, Path], root: Path, seed: int, started: float) -> DemoReport:
    coupling = Coupling.open(synthetic["pairs"])
    evaluation_seed = 2000 + seed
    settings = EvaluationConfig(samples=SAMPLES, noise_policy=NOISE_POLICY, batch=1000)
    rows, responses = {}, {}
    for name, stage in (("mdm", "mdm_redi"), ("imdm", "imdm_redi")):
        model = load_model(synthetic[stage], WEIGHTS).model
        responses[name] = noise_response(model, evaluation_seed)
        rows[name] = table1_row(draw_samples(model, settings, 2, 1, evaluation_seed), responses[name])
    shared = set(coupling.seed_P.tolist()) & _evaluation_seeds(evaluation_seed)
    assert not shared, "evaluation must not see the noise of the coupling"

    plots.plot_validity(root / "validity.png", {name: row["validity"] for name, row in rows.items()})
    plots.plot_token_probabilities(root / "token_probabilities.png", {n: r.zero_K2 for n, r in responses.items()})
    for name, folders, stages in (("synthetic", synthetic, SYNTHETIC_TRAINED), ("text", text, TEXT_TRAINED)):
        curves = {stage: _curve(folders[stage]) for stage in stages}
        plots.plot_losses(root / f"loss_{name}.png", curves, unit="nats per token")
    result = read_json(text["table"] / "result.json")
    plots.plot_gen_ppl(root / "gen_ppl.png", _gen_ppl(result))
    return DemoReport(
        table1=rows,
        table2_rows=table2_rows(responses["imdm"], responses["mdm"]),
        provenance={
            "seed": seed,
            "coupling pairs (synthetic)": len(coupling),
            "coupling seed": coupling.plan["seed"],
            "rollout steps": coupling.plan["steps"],
            "one-step samples": SAMPLES,
            "noise draws": NOISE_DRAWS,
            "evaluation seed": evaluation_seed,
            "noise seeds shared by evaluation and coupling": len(shared),
            "weights": WEIGHTS,
            "draw precision": DRAW_PRECISION,
            "sampler": SAMPLER,
            "noise policy": NOISE_POLICY,
            "seconds of this call (stages that were there already took none)": round(time.monotonic() - started, 1),
            "versions": versions(),
        },
        text_figures=[_text_row(record) for record in result["records"]],
        text_samples={f"{r['model']}, {r['steps']} steps": r["figures"]["texts"] for r in result["records"]},
        text_notes=_text_notes(result, text),
        plots={
            "Validity": "validity.png",
            "Token probabilities by noise": "token_probabilities.png",
            "Losses, two tokens": "loss_synthetic.png",
            "Losses, text": "loss_text.png",
            "Gen. PPL by steps": "gen_ppl.png",
        },
    )


def _evaluation_seeds(seed: int) -> set[int]:
    samples = draws.derive_seed(seed, Purpose.SAMPLE, torch.arange(SAMPLES))
    noises = draws.derive_seed(seed, Purpose.TEST, torch.arange(NOISE_DRAWS))
    return set(torch.cat((samples, noises)).tolist())


def _curve(folder: Path) -> tuple[list[int], list[float]]:
    lines = [line for line in read_metrics(folder) if "loss" in line]
    return [line["step"] for line in lines], [line["loss"] for line in lines]


def _gen_ppl(result: dict[str, Any]) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in result["records"]:
        steps, values = curves.setdefault(record["model"], ([], []))
        if (value := record["figures"]["mean"]["gen_ppl"]) is not None:  # of a bad model no float may hold it
            steps.append(record["steps"])
            values.append(value)
    return curves


def _text_row(record: dict[str, Any]) -> dict[str, Any]:
    mean = record["figures"]["mean"]
    names = {"Gen. PPL": "gen_ppl", "entropy": "entropy", "distinct-2": "distinct_2", "copied 8-grams": "copied_8grams"}
    return {
        "model": record["model"],
        "steps": record["steps"],
        **{head: mean.get(name) for head, name in names.items()},
    }


def _text_notes(result: dict[str, Any], text: dict[str, Path]) -> list[str]:
    pairs = Coupling.open(text["pairs"])
    others = {"trigram (modified Kneser-Ney)": result["trigram_valid_ppl"], "evaluator": result["evaluator_valid_ppl"]}
    models = {**result["valid_ppl"], **others}
    valid = ", ".join(f"{name} {show_perplexity(figures['text'])}" for name, figures in models.items())
    over_all = ", ".join(f"{name} {show_perplexity(figures['all'])}" for name, figures in models.items())
    unique = len(np.unique(pairs.seed_P))
    return [
        f"Validation PPL over text tokens: {valid}. Over all tokens, with those that packing forces at both ends of a "
        f"row (the evaluator's without the first): {over_all}. ± is the standard error of the draws for these rows.",
        "Gen. PPL is that of a small causal model trained here, so it compares rows of this table and nothing else.",
        f"The coupling has {unique} pairs. These models are minutes old: the table shows that every part works and how "
        "results are laid out, not what the method reaches.",
    ]
