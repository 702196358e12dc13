"""Tables of models: Gen. PPL by every convention that an evaluator allows, and figures that need no evaluator."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from imdm_dist.checkpoint.model import load_model
from imdm_dist.config import Config, DataConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from imdm_dist.config.evaluation import EvaluatorConfig
from imdm_dist.data import Dataset, load_tokenizer, prepare
from imdm_dist.data.tokenizer import train_bpe
from imdm_dist.evaluation.causal_lm import load_causal_lm, train_evaluator
from imdm_dist.evaluation.evaluate import Candidate, evaluate
from imdm_dist.evaluation.gen_ppl import generative_perplexity, generative_perplexity_of_sequences
from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.kneser_ney import TrigramModel
from imdm_dist.evaluation.metrics import trigram, valid_ppl
from imdm_dist.evaluation.sampling import draw_samples
from imdm_dist.files import read_json
from imdm_dist.model.dit import DitConfig
from imdm_dist.training.loop import train

LENGTH = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("evaluate")
    lines = [f"line {i} , it ' s said , has {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(300)]
    (home / "text.txt").write_text("".join(lines))
    train_bpe(lines, 310, home / "other")
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    lm.save_pretrained(home / "other")
    return home


@pytest.fixture(scope="module")
def config(home: Path) -> Config:
    text = (str(home / "text.txt"),)
    return Config(
        model=DitConfig(size="custom", hidden_dim=32, n_blocks=1, n_heads=2, dropout=0.0),
        data=DataConfig(
            source="files",
            train=text,
            valid=text,
            bpe_size=300,
            length=LENGTH,
            cache=str(home / "data"),
            root=str(home),
        ),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=2, ema_decay=0.9),
        train=TrainConfig(steps=40, global_batch=16, valid_rows=16),  # till ends of texts come in samples
        evaluation=EvaluationConfig(samples=6, steps=(2,), seeds=(1, 2)),
    )


@pytest.fixture(scope="module")
def data(config: Config) -> Dataset:
    return prepare(config.data)


@pytest.fixture(scope="module")
def models(home: Path, config: Config, data: Dataset) -> dict[str, Candidate]:
    train(config, home / "teacher")
    train_evaluator(EvaluatorConfig(hidden_dim=16, n_blocks=1, n_heads=2, steps=3), data.train, data.valid, home / "lm")
    return {"MDLM": Candidate(home / "teacher")}


def changed(config: Config, **settings: Any) -> Config:
    return replace(config, evaluation=replace(config.evaluation, **settings))


def test_what_needs_no_evaluator_is_given_without_one(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    result = evaluate(config, data, models, None, home / "without")
    (record,) = result["records"]
    assert record["evaluator"] is record["scored"] is record["end_tokens"] is result["evaluator_valid_ppl"] is None
    assert record["figures"]["mean"]["entropy"] > 0 and "gen_ppl" not in record["figures"]["mean"]
    assert json.loads((home / "without" / "result.json").read_text()) == result
    lines = (home / "without" / "table.md").read_text().splitlines()
    assert lines[0].startswith("| model | steps | Gen. PPL | entropy") and lines[2].startswith("| MDLM | 2 | – | ")
    assert any(line.startswith("| MDLM |") and line.count(" ± ") == 2 for line in lines)
    assert any(line.startswith("| evaluator | – | – |") for line in lines)


def test_every_convention_is_that_of_its_definition(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    """Of an evaluator over the samples' own tokens: ids and text, all end tokens and the first."""
    result = evaluate(config, data, models, home / "lm", home / "own")
    (record,) = result["records"]
    assert (record["scored"], record["end_tokens"], record["clean_up"]) == ("ids", "all", False)
    lm, tokenizer = load_causal_lm(home / "lm"), data.tokenizer
    assert tokenizer is not None
    for seed, figures in zip((1, 2), record["figures"]["by_seed"], strict=True):
        rows = np.load(home / "own" / f"samples-MDLM-2-{seed}.npy")
        of_ids = generative_perplexity(lm, rows, end_id=tokenizer.eos_id)
        texts = [tokenizer.decode(row) for row in rows]
        marked = tokenizer.encode_decoded(texts)
        of_text = generative_perplexity_of_sequences(lm, marked, LENGTH, end_id=tokenizer.eos_id)
        assert figures["gen_ppl"] == figures["gen_ppl_ids_all"] == pytest.approx(of_ids.token_level, rel=1e-5)
        assert figures["gen_ppl_ids_first"] == pytest.approx(of_ids.first_end, rel=1e-5)
        assert figures["gen_ppl_text_all"] == pytest.approx(of_text.token_level, rel=1e-5)
        assert figures["gen_ppl_text_first"] == pytest.approx(of_text.first_end, rel=1e-5)
        assert figures["gen_ppl_ids_first"] != figures["gen_ppl_ids_all"]
    head = (home / "own" / "table.md").read_text().splitlines()[0]
    assert "| Gen. PPL (ids, all end tokens) | Gen. PPL (text, no end token after the first) | entropy" in head


def test_settings_choose_the_figure_that_stands_first(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    result = evaluate(changed(config, scored="text", end_tokens="first"), data, models, home / "lm", home / "chosen")
    (record,) = result["records"]
    assert (record["scored"], record["end_tokens"]) == ("text", "first")
    mean = record["figures"]["mean"]
    assert mean["gen_ppl"] == mean["gen_ppl_text_first"]
    head = (home / "chosen" / "table.md").read_text().splitlines()[0]
    assert "| Gen. PPL (text, no end token after the first) | Gen. PPL (ids, all end tokens) | entropy" in head


def test_an_evaluator_with_tokens_of_its_own_scores_text_alone(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    result = evaluate(config, data, models, home / "other", home / "foreign")
    (record,) = result["records"]
    assert (record["scored"], record["end_tokens"]) == ("text", "all")
    assert result["evaluator_valid_ppl"] is None  # it does not read these rows
    theirs, lm = load_tokenizer(str(home / "other")), load_causal_lm(home / "other")
    rows = np.load(home / "foreign" / "samples-MDLM-2-1.npy")
    assert data.tokenizer is not None
    marked = theirs.encode_decoded([data.tokenizer.decode(row) for row in rows])
    assert any(theirs.eos_id in ids for ids in marked)
    scored = generative_perplexity_of_sequences(lm, marked, LENGTH, end_id=theirs.eos_id)
    figures = record["figures"]["by_seed"][0]
    assert "gen_ppl_ids_all" not in figures
    assert figures["gen_ppl"] == figures["gen_ppl_text_all"] == pytest.approx(scored.token_level, rel=1e-5)
    assert figures["gen_ppl_text_first"] == pytest.approx(scored.first_end, rel=1e-5)


def test_a_model_that_is_beyond_all_floats_has_a_row(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    wild = replace(config, optimizer=replace(config.optimizer, lr=1e6, warmup_steps=0))
    train(replace(wild, train=replace(wild.train, steps=2)), home / "wild")
    evaluate(config, data, {"wild": Candidate(home / "wild")}, None, home / "bad")
    figures = read_json(home / "bad" / "result.json")["valid_ppl"]["wild"]
    assert figures["all"]["ppl"] is None and figures["all"]["nats"] > 709
    assert "| wild | exp(" in (home / "bad" / "table.md").read_text()


def test_evaluators_and_models_without_numbers_are_refused_before_any_sampling(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valid_ppl, "perplexities", None)  # what would come first
    lm = load_causal_lm(home / "lm")
    lm.transformer.h[0].ln_1.weight.data[0] = float("nan")
    shutil.copytree(home / "lm", home / "nan-lm")
    lm.save_pretrained(home / "nan-lm")
    with pytest.raises(ValueError, match=f"evaluator {home / 'nan-lm'} holds .*: it gives no finite probabilities"):
        evaluate(config, data, models, home / "nan-lm", home / "of-nan")
    lm.transformer.h[0].ln_1.weight.data.fill_(3e38)  # numbers, of which none come
    lm.save_pretrained(home / "nan-lm")
    with pytest.raises(ValueError, match=f"evaluator {home / 'nan-lm'} gives no finite probabilities; train it again"):
        evaluate(config, data, models, home / "nan-lm", home / "of-nan")
    wild = replace(config, optimizer=replace(config.optimizer, lr=1e38, warmup_steps=0))
    train(replace(wild, train=replace(wild.train, steps=1)), home / "nan")
    bad = {**models, "NaN": Candidate(home / "nan")}
    with pytest.raises(ValueError, match="nan/step-00000001 holds infinities or no numbers in"):
        evaluate(config, data, bad, home / "lm", home / "of-nan")
    assert not (home / "of-nan").exists()


def test_an_evaluator_that_diverged_is_not_published(home: Path, data: Dataset) -> None:
    settings = EvaluatorConfig(hidden_dim=16, n_blocks=1, n_heads=2, steps=3, lr=float("inf"))
    with pytest.raises(ValueError, match="the evaluator holds infinities or no numbers .* lower evaluator.lr"):
        train_evaluator(settings, data.train, data.valid, home / "wild-lm")
    assert not (home / "wild-lm").exists()


def test_the_columns_are_those_of_the_metrics_that_ran(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate]
) -> None:
    """A metric of one's own among them, and in the order of the setting."""
    own = "tests.evaluation.longest_run:LongestRun"
    asked = changed(config, metrics=("copied", own, "valid_ppl"))
    model = load_model(models["MDLM"].path, "ema").model
    reference = draw_samples(model, asked.evaluation, LENGTH, steps=2, seed=1).numpy()
    result = evaluate(asked, data, {"MDLM": replace(models["MDLM"], reference=reference)}, None, home / "columns")
    (record,), figures = result["records"], result["records"][0]["figures"]
    assert result["metrics"] == ["copied", own, "valid_ppl"] and set(result["valid_ppl"]) == set(result[own]) == {
        "MDLM"
    }
    assert set(figures["mean"]) == {"copied_8grams", "longest_run", "longest_run_se"}
    assert figures["by_seed"][0]["copied_8grams"] == 1 and record["evaluator"] is None
    first, second = (seed["longest_run_se"] for seed in figures["by_seed"])
    assert figures["mean"]["longest_run_se"] == pytest.approx((first**2 + second**2) ** 0.5 / 2)
    lines = (home / "columns" / "table.md").read_text().splitlines()
    assert lines[0] == "| model | steps | copied 8-grams | longest run |"
    assert lines[2].startswith("| MDLM | 2 | ") and lines[2].count(" ± ") == 1
    assert lines[4].endswith("noise policy posterior. Runs are of one token.")
    assert lines[6] == "| model | parameters | validation PPL, 16 rows: text tokens | all tokens |"
    assert lines[8].startswith("| MDLM | ") and lines[8].count(" ± ") == 2
    assert lines[10].startswith("Runs are of one token. Text tokens are") and len(lines) == 11


def test_a_trigram_stands_in_a_report_that_asks_for_it(
    home: Path, config: Config, data: Dataset, models: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "trigram" not in EvaluationConfig().metrics
    asked = changed(config, metrics=("valid_ppl", "trigram"))
    result = evaluate(asked, data, models, None, home / "teacher-report")
    ours = TrigramModel.fit(data.train.tokens, data.train.vocab_size)
    assert result["trigram_valid_ppl"] == perplexities(ours, data.valid, 16).to_dict()
    lines = (home / "teacher-report" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| MDLM", "| trigram (modified Kneser-Ney)"]
    # Nothing that is asked for reads samples: none are drawn.
    assert result["records"] == [] and not list((home / "teacher-report").glob("samples-*"))
    monkeypatch.setattr(trigram, "MAX_TOKENS", 100)
    evaluate(asked, data, models, None, home / "too-large")
    assert "| trigram (modified Kneser-Ney) | – | – |" in (home / "too-large" / "table.md").read_text()


def test_a_metric_that_is_not_there_is_refused(config: Config, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation.metrics is 'entropie': did you mean entropy"):
        changed(config, metrics=("entropie",))
    with pytest.raises(ValueError, match="evaluation.metrics is empty"):
        changed(config, metrics=())
    with pytest.raises(ValueError, match="evaluation.metrics is 'tests.nowhere:X', which cannot be imported"):
        evaluate(changed(config, metrics=("tests.nowhere:X",)), data, {}, None, tmp_path / "none")
