"""The small causal language model: training, publishing, loading, and Gen. PPL against plain definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from imdm_dist.config.evaluation import EvaluatorConfig
from imdm_dist.data.token_file import TokenFile
from imdm_dist.evaluation.causal_lm import (
    evaluator_key,
    finished_evaluator,
    load_causal_lm,
    train_evaluator,
)
from imdm_dist.evaluation.evaluator_files import find_evaluator
from imdm_dist.evaluation.gen_ppl import (
    generative_perplexity,
    generative_perplexity_of_sequences,
)

VOCAB, LENGTH = 12, 9
TINY = EvaluatorConfig(hidden_dim=32, n_blocks=1, n_heads=2, steps=60, batch=16, lr=1e-2, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster on one thread, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _walk(rows: int, seed: int) -> np.ndarray:
    """Each token is the one before plus 1 or 2 on a ring of 11: ln 2 nats a token, and the mask, 11, never occurs."""
    steps = np.random.default_rng(seed).integers(1, 3, (rows, LENGTH))
    return np.cumsum(steps, axis=1) % (VOCAB - 1)


def _file(path: Path, rows: np.ndarray) -> TokenFile:
    return TokenFile.write(
        path, rows, length=rows.shape[1], vocab_size=VOCAB, mask_id=VOCAB - 1, bos_id=None, eos_id=None, settings={}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenFile, TokenFile]:
    folder = tmp_path_factory.mktemp("data")
    return _file(folder / "train", _walk(300, 0)), _file(folder / "valid", _walk(50, 1))


@pytest.fixture(scope="module")
def trained(data: tuple[TokenFile, TokenFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluator") / "lm"
    train_evaluator(TINY, *data, folder)
    return folder


def _lm(vocab: int = VOCAB) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=16, initializer_range=0.5, **size))
    return lm.eval()


def _nlls(lm: GPT2LMHeadModel, ids: list[int]) -> list[float]:
    with torch.no_grad():
        log_p = lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-log_p[place - 1, ids[place]].item() for place in range(1, len(ids))]


def test_training_learns_the_data(trained: Path, data: tuple[TokenFile, TokenFile]) -> None:
    record = json.loads((trained / "evaluator.json").read_text())
    assert 2 <= record["valid_ppl"] < 2.6
    assert record["valid_ppl_text"] == pytest.approx(record["valid_ppl"])  # these rows have no ends of their own
    assert record["data"] == data[0].fingerprint
    assert record["config"]["steps"] == 60
    loaded = load_causal_lm(trained)
    assert not loaded.training
    assert generative_perplexity(loaded, data[1].tokens, batch=7).token_level == pytest.approx(record["valid_ppl"])
    shuffled = generative_perplexity(loaded, np.random.default_rng(0).permuted(data[1].tokens, axis=1))
    assert shuffled.token_level is not None and shuffled.token_level > 10


def test_training_is_a_function_of_its_settings(
    trained: Path, data: tuple[TokenFile, TokenFile], tmp_path: Path
) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    short = replace(TINY, steps=3, dropout=0.5)
    first = train_evaluator(short, *data, tmp_path / "a")
    torch.rand(1)
    again = train_evaluator(short, *data, tmp_path / "b")
    other = train_evaluator(replace(short, seed=1), *data, tmp_path / "c")
    assert first["valid_ppl"] == again["valid_ppl"] != other["valid_ppl"]
    torch.manual_seed(123)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_finished_evaluator_is_kept_and_an_outdated_one_replaced(
    data: tuple[TokenFile, TokenFile], tmp_path: Path
) -> None:
    config = replace(TINY, steps=2)
    first = train_evaluator(config, *data, tmp_path / "lm")
    written = (tmp_path / "lm" / "model.safetensors").stat().st_mtime_ns
    assert train_evaluator(config, *data, tmp_path / "lm") == first
    assert (tmp_path / "lm" / "model.safetensors").stat().st_mtime_ns == written
    second = train_evaluator(replace(config, steps=1), *data, tmp_path / "lm")
    assert second["config"]["steps"] == 1
    assert finished_evaluator(tmp_path / "lm", evaluator_key(config, data[0], autocast=False)) is None


def test_a_failed_training_leaves_nothing(
    data: tuple[TokenFile, TokenFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", full_disk)
    with pytest.raises(OSError):
        train_evaluator(replace(TINY, steps=1), *data, tmp_path / "lm")
    assert not list(tmp_path.iterdir())


def test_autocast_trains(data: tuple[TokenFile, TokenFile], tmp_path: Path) -> None:
    record = train_evaluator(replace(TINY, steps=20), *data, tmp_path / "lm", autocast=True)
    assert record["autocast"] and record["valid_ppl"] < 8


def test_gen_ppl_of_equal_rows() -> None:
    lm, rows = _lm(), _walk(5, 2)
    nlls = [_nlls(lm, row) for row in rows.tolist()]
    scored = generative_perplexity(lm, rows, batch=2)
    assert scored.tokens == 5 * (LENGTH - 1) and scored.sequences == 5
    assert scored.token_level == pytest.approx(math.exp(np.mean(nlls)), rel=1e-5)
    assert scored.sequence_level == pytest.approx(scored.token_level, rel=1e-9)


def _letters(text: str) -> list[int]:
    """Ids of a text in the tokens of an evaluator of letters: a is 0, b is 1, ..."""
    return [ord(letter) - ord("a") for letter in text]


def test_end_tokens_from_the_second_on_are_left_out() -> None:
    """As MDLM and DUO count: the first token of a sequence is one, if it is an end token; text behind one counts."""
    lm, end = _lm(), 3
    rows = np.array([[end, 1, 2, end, 4, end], [1, 2, end, 5, end, end], [1, 2, 4, 5, 6, 7]])
    counted = [[1, 2, 4], [1, 2, 3], [1, 2, 3, 4, 5]]  # places
    nlls = [_nlls(lm, row) for row in rows.tolist()]
    kept = [nll[place - 1] for nll, places in zip(nlls, counted, strict=True) for place in places]
    scored = generative_perplexity(lm, rows, end_id=end)
    assert scored.token_level == pytest.approx(math.exp(np.mean(nlls)), rel=1e-5)
    assert scored.first_end == pytest.approx(math.exp(np.mean(kept)), rel=1e-5)
    assert generative_perplexity(lm, rows).first_end is None
    of_lists = generative_perplexity_of_sequences(lm, rows.tolist(), max_tokens=6, end_id=end)
    assert of_lists.first_end == pytest.approx(scored.first_end, rel=1e-6)


def test_a_perplexity_that_no_float_holds_is_none() -> None:
    lm = _lm()
    with torch.no_grad():
        lm.transformer.wte.weight.mul_(1e5)
    assert generative_perplexity(lm, _walk(5, 2)).token_level is None


@pytest.mark.parametrize("batch", [1, 2, 10])
def test_gen_ppl_of_texts_of_many_lengths(batch: int) -> None:
    lm = _lm()
    texts = ["abcde", "c", "", "kkjihgfedcba", "ba"]
    nlls = [_nlls(lm, _letters(text[:8])) for text in texts if len(text) > 1]
    scored = generative_perplexity_of_sequences(lm, [*map(_letters, texts)], max_tokens=8, batch=batch)
    assert (scored.tokens, scored.sequences) == (4 + 7 + 1, 3)
    assert scored.token_level == pytest.approx(math.exp(np.mean(sum(nlls, []))), rel=1e-5)
    assert scored.sequence_level == pytest.approx(math.exp(np.mean([np.mean(one) for one in nlls])), rel=1e-5)
    assert scored.token_level is not None and scored.sequence_level is not None
    assert abs(scored.token_level - scored.sequence_level) > 1e-3


@pytest.mark.parametrize("read", [load_causal_lm, find_evaluator])
def test_the_hub_is_asked_once_for_an_evaluator(
    read: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def from_pretrained(name: str, dtype: torch.dtype, local_files_only: bool) -> None:
        assert local_files_only, "transformers would ask again and again"
        raise OSError("not in the cache")

    def model_info(name: str, timeout: float) -> None:
        asked.append(name)
        raise RuntimeError("no route")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    monkeypatch.setattr("huggingface_hub.model_info", model_info)
    for name in ("gtp2", "owner/gtp2"):
        with pytest.raises(ValueError, match=f"evaluator {name} cannot be loaded .*no route.: train one with"):
            read(name)
    assert asked == ["gtp2", "owner/gtp2"]
    for name in ("./gpt2", str(tmp_path / "gpt2"), "~/gpt2", "runs/a/gpt2"):
        with pytest.raises(ValueError, match=f"evaluator {name} cannot be loaded .there is no such folder.: train"):
            read(name)
    assert len(asked) == 2


def test_errors_name_the_remedy(tmp_path: Path, data: tuple[TokenFile, TokenFile]) -> None:
    with pytest.raises(ValueError, match="there is no such folder.: train one with imdm_dist train-evaluator"):
        load_causal_lm(tmp_path / "nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_causal_lm(tmp_path)
    with pytest.raises(ValueError, match="same tokens"):
        generative_perplexity(_lm(vocab=5), np.array([[1, 2, 7]]))
    with pytest.raises(ValueError, match="data.length=17"):
        generative_perplexity(_lm(), np.zeros((1, 17), dtype=int))
    with pytest.raises(ValueError, match="nothing to score"):
        generative_perplexity_of_sequences(_lm(), [[0], []], max_tokens=8)
    with pytest.raises(ValueError, match=r"evaluator\.n_heads=3"):
        train_evaluator(replace(TINY, n_heads=3), *data, tmp_path / "lm")
    assert not list(tmp_path.iterdir())
