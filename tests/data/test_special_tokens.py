"""Begin, end and mask within a text: plain text whatever the tokenizer's files say, and refused where that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from imdm_dist.checkpoint.read import open_checkpoint
from imdm_dist.data import TokenFile, prepare
from imdm_dist.data.tokenizer import load_tokenizer, train_bpe
from imdm_dist.evaluation.causal_lm import load_causal_lm
from imdm_dist.evaluation.evaluator_files import find_evaluator
from imdm_dist.interop.published import open_published
from tests.data.test_text_files import POINTER, config_of

SENTENCES = [f"Some plain words, and the number {at}." for at in range(200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer whose file says of every added token that it is not special."""
    train_bpe(SENTENCES, 300, tmp_path / "bpe")
    load_tokenizer(str(tmp_path / "bpe")).save(tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer.json"
    stored = json.loads(path.read_text())
    assert len(stored["added_tokens"]) == 2
    for token in stored["added_tokens"]:
        token["special"] = False
        token["normalized"] = True
    path.write_text(json.dumps(stored))
    return tmp_path / "plain"


def test_begin_end_and_mask_are_special_whatever_the_file_says(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    text = "Some [MASK] words<|endoftext|>, and"
    (ids,) = tokenizer.encode([text])
    assert not {tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.fingerprint == load_tokenizer(str(folder.with_name("bpe"))).fingerprint
    tokenizer.fast([text])  # transformers turns the reading of special tokens back on
    assert tokenizer.encode([text]) == [ids]
    (tmp_path / "a.txt").write_text("\n".join([text] * 300) + "\n")
    data = prepare(config_of(tmp_path, "a.txt", tokenizer=str(folder), length=16))
    assert not (data.train.tokens == tokenizer.mask_id).any()


def test_rows_that_hold_the_mask_are_refused_where_they_are_written(tmp_path: Path) -> None:
    rows = np.zeros((9, 4), dtype=np.int64)
    rows[7, 2] = 99
    shape = {"length": 4, "vocab_size": 100, "mask_id": 99, "bos_id": 0, "eos_id": 1, "settings": {}}
    for chunks in (rows, [rows[:5], rows[5:]]):
        with pytest.raises(
            ValueError, match="^file: row 8 holds the mask, id 99, which stands for no text: .*"
        ) as error:
            TokenFile.write(tmp_path / "file", chunks, **shape)  # type: ignore[arg-type]
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_mask_that_is_a_word_of_the_text_is_refused(tmp_path: Path) -> None:
    words = ["<s>", "</s>", "<unk>", "gap", "Some", "plain", "words", ",", "and", "the", "number", "42", "."]
    backend = Backend(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "words").mkdir()
    backend.save(str(tmp_path / "words" / "tokenizer.json"))
    (tmp_path / "words" / "tokenizer_config.json").write_text('{"mask_token": "gap"}')
    (tmp_path / "a.txt").write_text("Some plain words\n" * 20 + "the gap\n" * 20)
    with pytest.raises(ValueError, match="train: row [0-9]+ holds the mask, id 3, .*name another one"):
        prepare(config_of(tmp_path, "a.txt", tokenizer=str(tmp_path / "words"), length=8))


@pytest.mark.parametrize(
    ("tokens", "role"),
    [
        ({"mask_token": "<|endoftext|>"}, "begin"),
        ({"mask_token": "Some", "eos_token": "Some"}, "end"),
        ({"mask_token": "Some", "cls_token": "Some", "bos_token": None}, "begin"),
    ],
)
def test_a_mask_that_begins_or_ends_rows_is_refused(tmp_path: Path, tokens: dict[str, str], role: str) -> None:
    train_bpe(SENTENCES, 300, tmp_path / "bpe")
    path = tmp_path / "bpe" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokens))
    both = re.escape(f"mask_token and {role} token are both {tokens['mask_token']!r}")
    with pytest.raises(ValueError, match=f"^data.tokenizer=.*: {both}, .*: name another mask_token in"):
        load_tokenizer(str(tmp_path / "bpe"))


READERS: tuple[Callable[[Path], object], ...] = (open_published, load_causal_lm, lambda path: find_evaluator(str(path)))


@pytest.mark.parametrize("content", ["[]", "5", '"a"', "null"])
def test_settings_of_models_that_are_no_object_are_named(tmp_path: Path, content: str) -> None:
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    for read in READERS:
        with pytest.raises(ValueError, match="/config.json is no JSON object: replace it"):
            read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="/model.safetensors.index.json is no JSON object: replace it"):
        find_evaluator(str(tmp_path))


def test_pointers_of_git_lfs_are_no_weights(tmp_path: Path) -> None:
    said = "is a Git-LFS pointer, not the file itself: run git lfs pull"
    for name in ("a.ckpt", "a.bin", "a.safetensors"):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(ValueError, match=f"{name} {said}"):
            open_published(tmp_path / name)
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text("{}")
    (hub / "model.safetensors").write_bytes(POINTER)
    for read in READERS:
        with pytest.raises(ValueError, match=f"model.safetensors {said}"):
            read(hub)
    save_file({}, hub / "model.safetensors")
    (hub / "config.json").write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"config.json {said}"):
        open_published(hub)
    (tmp_path / "state.json").write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"state.json {said}"):
        open_checkpoint(tmp_path)
    rows = np.zeros((9, 4), dtype=np.int64)
    made = TokenFile.write(tmp_path / "rows", rows, length=4, vocab_size=9, mask_id=8, bos_id=0, eos_id=1, settings={})
    (made.path / "tokens.npy").write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"tokens.npy {said}"):
        TokenFile.open(made.path)
