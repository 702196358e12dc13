"""Text to token files: reading, tokenizers, packing, and building once."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from imdm_dist.config.data import DataConfig
from imdm_dist.data import TokenFile, Tokenizer, embedded, load_tokenizer, prepare
from imdm_dist.data.corpus import source_identity
from imdm_dist.data.detokenize import lm1b
from imdm_dist.data.embedded import read_embedded
from imdm_dist.data.packing import pack
from imdm_dist.data.split_documents import read_documents, text_batches
from imdm_dist.data.tokenizer import train_bpe

TEXT = "the cat sat on a mat while it rained, and 42 dogs ran over the hill to see what the noise was about"
WORDS = TEXT.split()


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) + "." for _ in range(count)]


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    train_bpe(sentences(300), 320, folder)
    return folder


@pytest.fixture(scope="module")
def bpe(bpe_folder: Path) -> Tokenizer:
    return load_tokenizer(str(bpe_folder))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece vocabulary in BERT's format, its mask in the middle."""
    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *",.'<>|[]", *letters, *(f"##{one}" for one in letters)]
    (folder / "vocab.txt").write_text("\n".join([*entries, "the", "##ing"]) + "\n")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    """Settings for a small text of one's own."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("\n".join(sentences(300)) + "\n")
    (tmp_path / "text" / "valid.txt").write_text("\n".join(sentences(50, seed=1)) + "\n")
    return DataConfig(
        root=str(tmp_path / "text"),
        source="files",
        train=("train.txt",),
        valid=("valid.txt",),
        bpe_size=320,
        length=16,
        cache=str(tmp_path / "cache"),
    )


def changed(config: DataConfig, **settings: Any) -> DataConfig:
    return DataConfig(**{**config.__dict__, **settings})


# --- tokenizers


def test_a_bpe_is_trained_the_same_every_time_and_gives_text_back(bpe: Tokenizer, tmp_path: Path) -> None:
    train_bpe(iter([sentences(100), sentences(300)[100:]]), 320, tmp_path / "lists")
    train_bpe([*sentences(100), *sentences(300)[100:]], 320, tmp_path / "texts")
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("lists", "texts"))
    assert first == second
    assert (bpe.vocab_size, bpe.mask_id, bpe.bos_id, bpe.eos_id) == (321, 320, 0, 0)
    text = "The cat,  sat — 42 naïve dogs"
    (ids,) = bpe.encode([text])
    assert bpe.decode(ids) == text
    assert bpe.decode(torch.tensor([0, *ids, 320])) == f"<|endoftext|>{text}[MASK]"


def test_gpt2_files_get_a_mask_appended(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.fast.backend_tokenizer.model.save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    tokenizer = load_tokenizer(tmp_path.name, tmp_path.parent)
    assert (tokenizer.vocab_size, tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id) == (321, 320, 0, 0)
    assert tokenizer.encode(["the cat"]) == bpe.encode(["the cat"])
    assert tokenizer.fingerprint == bpe.fingerprint


def test_bert_files_keep_their_own_mask(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bert_folder))
    entries = (bert_folder / "vocab.txt").read_text().split()
    assert (tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id) == (4, 2, 3)
    assert tokenizer.vocab_size == len(entries)
    (ids,) = tokenizer.encode(["The raining"])
    assert [entries[one] for one in ids] == ["the", "r", "##a", "##i", "##n", "##ing"]


def test_names_of_special_tokens_in_a_text_are_plain_text(bpe: Tokenizer, bert_folder: Path) -> None:
    for tokenizer in (bpe, load_tokenizer(str(bert_folder))):
        (ids,) = tokenizer.encode(["a [MASK] <|endoftext|> [SEP] b"])
        assert not {tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)


def test_decoded_text_reads_as_text_whatever_the_version_of_the_library(bpe: Tokenizer, bert_folder: Path) -> None:
    bert = load_tokenizer(str(bert_folder))
    for default in (True, False):  # of transformers 4 and 5
        bert.fast.clean_up_tokenization_spaces = bpe.fast.clean_up_tokenization_spaces = default
        assert bert.decode(bert.encode(["it's the dogs, isn't it."])[0]) == "it's the dogs, isn't it."
        # A byte-level BPE gives back what was there, as it was there.
        assert bpe.decode(bpe.encode(["it ' s a cat , they ' re not ."])[0]) == "it ' s a cat , they ' re not ."
    assert (bert.clean_up, bpe.clean_up) == (True, False)


def test_decoded_rows_are_encoded_with_their_special_tokens(bpe: Tokenizer, bert_folder: Path) -> None:
    for tokenizer in (bpe, load_tokenizer(str(bert_folder))):
        begin, end, text = tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode(["the cat's mat", "rain"])
        rows = [[begin, *text[0], end, *text[1], end], [*text[0], end, end], [], [begin]]
        assert tokenizer.encode_decoded([tokenizer.decode(row) for row in rows]) == rows
        # What the text calls a mask is no mask.
        (ids,) = tokenizer.encode_decoded(["a [MASK] b"])
        assert tokenizer.mask_id not in ids


def test_a_bare_tokenizer_json_finds_its_special_tokens(bpe: Tokenizer, bert_folder: Path, tmp_path: Path) -> None:
    bert = load_tokenizer(str(bert_folder))
    bert.fast.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    bare = load_tokenizer(str(tmp_path))
    assert (bare.mask_id, bare.bos_id, bare.eos_id, bare.vocab_size) == (4, 2, 3, bert.vocab_size)
    assert bare.fingerprint == bert.fingerprint != bpe.fingerprint


def test_truncation_stored_in_a_tokenizer_is_off(bpe_folder: Path, tmp_path: Path) -> None:
    stored = json.loads((bpe_folder / "tokenizer.json").read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    (ids,) = load_tokenizer(str(tmp_path)).encode(["the cat sat on a mat while it rained"])
    assert len(ids) > 4


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is a folder without tokenizer.json"),
        ({"vocab.json": "{}", "merges.txt": ""}, "is empty or wrong"),
        ({"vocab.txt": ""}, "is empty or wrong"),
        ({"vocab.txt": "a\nb\n"}, "is empty or wrong"),
        ({"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"}, "is empty or wrong"),
        ({"tokenizer.json": "{"}, "does not load"),
        ({"tokenizer.json": "[]"}, r"does not load .*/tokenizer.json is no JSON object"),
        ({"tokenizer.json": "{}", "config.json": "[]"}, r"does not load .*/config.json is no JSON object"),
        (
            {"vocab.txt": "a\n", "tokenizer_config.json": "[]"},
            r"does not load .*/tokenizer_config.json is no JSON object",
        ),
        ({"vocab.txt": "a\n", "special_tokens_map.json": '"a"'}, r"does not load .*_map.json is no JSON object"),
    ],
)
def test_a_wrong_tokenizer_is_named_with_a_remedy(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"data.tokenizer=.*{said}.*: name a folder") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_token_is_refused(bpe_folder: Path, tmp_path: Path) -> None:
    stored = (bpe_folder / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(stored)
    with pytest.raises(ValueError, match="no begin or no end token: add bos_token and eos_token"):
        load_tokenizer(str(tmp_path))


class Hub:
    """Stands for the local cache and for the hub: what each holds, and what they were asked for."""

    def __init__(self, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokenizer = bpe.fast
        self.cached: set[str] = set()
        self.online: set[str] | None = None
        self.asked: list[str] = []
        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", self.read)
        monkeypatch.setattr("huggingface_hub.model_info", self.model_info)

    def read(self, name: str, local_files_only: bool) -> object:
        if not local_files_only:
            assert self.online is not None and name in self.online, "transformers would ask again and again"
            self.asked.append(f"files of {name}")
        elif name not in self.cached:
            raise OSError(f"no {name}\nsecond line")
        return self.tokenizer

    def model_info(self, name: str, timeout: float) -> None:
        self.asked.append(name)
        if self.online is None:
            raise RuntimeError("no route\nsecond line")
        if name not in self.online:
            raise huggingface_hub.errors.RepositoryNotFoundError("no such", response=mock.Mock())


@pytest.fixture
def hub(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(bpe, monkeypatch)


@pytest.mark.parametrize("name", ["./gpt3", "../gpt3", "/no/gpt3", "~/gpt3", "a/b/gpt3", ".", ""])
def test_a_path_that_is_no_folder_is_refused_at_once(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.online = {name}
    root = tmp_path / "no" / "folder"
    with pytest.raises(ValueError, match=f"data.tokenizer={name} is no folder: correct it"):
        load_tokenizer(name, root)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["gpt3", "owner/gpt3"])
def test_the_hub_is_asked_once_for_what_is_not_cached(hub: Hub, tmp_path: Path, name: str) -> None:
    where = f"data.tokenizer={name} is no folder under .* does not load from the hub"
    with pytest.raises(ValueError, match=f"{where} .*the hub does not answer: no route.: name a folder") as caught:
        load_tokenizer(name, tmp_path)
    assert hub.asked == [name] and "\n" not in str(caught.value)

    hub.online = {"another"}
    with pytest.raises(ValueError, match=f"{where} .the hub has no such model, .*: name a folder"):
        load_tokenizer(name, tmp_path)
    assert hub.asked == [name, name]

    hub.online, hub.asked = {name}, []
    load_tokenizer(name, tmp_path)
    assert hub.asked == [name, f"files of {name}"]

    hub.online, hub.asked, hub.cached = None, [], {name}
    load_tokenizer(name, tmp_path)
    assert hub.asked == []


# --- packing


def packed_by_hand(
    texts: list[str], tokenizer: Tokenizer, length: int, closed_by: int | None = None
) -> list[list[int]]:
    close = tokenizer.eos_id if closed_by is None else closed_by
    stream = list(chain.from_iterable([*ids, close] for ids in tokenizer.encode(texts)))
    cuts = range(0, len(stream) - (length - 2) + 1, length - 2)
    return [[tokenizer.bos_id, *stream[at : at + length - 2], close] for at in cuts]


@pytest.mark.parametrize("length", [3, 4, 16, 1000])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_rows_are_cut_from_one_stream(bpe: Tokenizer, bert_folder: Path, length: int, size: int) -> None:
    texts = sentences(200)
    for tokenizer in (bpe, load_tokenizer(str(bert_folder))):
        batches = [texts[at : at + size] for at in range(0, len(texts), size)]
        rows = np.concatenate(list(pack(batches, tokenizer, length)))
        assert rows.dtype == np.uint16
        assert rows.tolist() == packed_by_hand(texts, tokenizer, length)


def test_rows_of_the_mdlm_family_hold_no_end_token(corpus: DataConfig, bert_folder: Path) -> None:
    ours = changed(corpus, tokenizer=str(bert_folder))
    ends, begins = prepare(ours), prepare(changed(ours, separator="begin"))
    tokenizer = begins.tokenizer
    assert tokenizer is not None and tokenizer.bos_id != tokenizer.eos_id
    # What `tokenizer.encode(eos_token)[0]` is for BERT: the [CLS] that encode puts in front.
    assert tokenizer.fast.encode(tokenizer.fast.sep_token)[0] == tokenizer.bos_id
    assert begins.train.tokens.tolist() == packed_by_hand(sentences(300), tokenizer, 16, tokenizer.bos_id)
    assert not (begins.train.tokens == tokenizer.eos_id).any() and begins.train.eos_id == tokenizer.bos_id
    assert begins.train.fingerprint != ends.train.fingerprint
    assert (ends.train.tokens == tokenizer.eos_id).sum() == (
        begins.train.tokens == tokenizer.bos_id
    ).sum() - ends.train.rows


def test_a_row_too_short_for_text_is_refused(bpe: Tokenizer, corpus: DataConfig) -> None:
    with pytest.raises(ValueError, match="data.length is 2: .* so set 3 or more"):
        list(pack([["a"]], bpe, 2))
    with pytest.raises(ValueError, match="data.length is 1: .* so set 3 or more"):
        prepare(changed(corpus, length=1))


@pytest.mark.parametrize(
    ("tokenised", "written"),
    [
        ("They don 't think it 's Obama 's , he said .", "They don't think it's Obama's, he said."),
        ('" We let folks know , " he said .', '"We let folks know," he said.'),
        ("He said : \" I 'm sorry .", "He said: \"I'm sorry."),
        ('I have no idea , " he said .', 'I have no idea," he said.'),
        (
            "It was so \" pervasive as to ' shock ' them , \" I hear .",
            "It was so \"pervasive as to 'shock' them,\" I hear.",
        ),
        ("The victims ' names ( 12 of them ) are out !", "The victims' names (12 of them) are out!"),
        ("A price tag of $ 550 ( £ 294 ) , or 3 % more ...", "A price tag of $550 (£294), or 3% more..."),
        ("At 7 : 45 p.m. on 9 / 11 ; see HIV / AIDS", "At 7:45 p.m. on 9/11; see HIV/AIDS"),
        ("Visit http : / / www.example.com / a / b .", "Visit http://www.example.com/a/b."),
        ("The soul -- or self - does [ not ] .", "The soul -- or self - does [not]."),
        ("O 'Neill and ' Coming Home '", "O'Neill and 'Coming Home'"),
        ("Lab , Doctor # 1 , a sum of € 8bn ( $ 1.72bn )", "Lab, Doctor #1, a sum of €8bn ($1.72bn)"),
        ("It costs 20 € per day , in C # code , to € .", "It costs 20 € per day, in C # code, to €."),
        ("", ""),
    ],
)
def test_the_tokenisation_of_lm1b_is_undone(tokenised: str, written: str) -> None:
    assert lm1b(tokenised) == written


# --- token files


def write(path: Path, rows: object, **settings: object) -> TokenFile:
    shape: dict[str, object] = {"length": 4, "vocab_size": 100, "mask_id": 99, "bos_id": 0, "eos_id": 1}
    return TokenFile.write(path, rows, **{**shape, "settings": {}, **settings})  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 99, (50, 4))
    whole = write(tmp_path / "whole", rows)
    parts = write(tmp_path / "parts", (rows[at : at + 7] for at in range(0, 50, 7)))
    assert (tmp_path / "whole/tokens.npy").read_bytes() == (tmp_path / "parts/tokens.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "parts/tokens.npy"), rows)
    assert whole.fingerprint == parts.fingerprint
    assert (parts.rows, parts.length, parts.vocab_size, parts.mask_id) == (50, 4, 100, 99)
    taken = parts.take([3, 3, 0])
    assert taken.dtype == torch.int64 and taken.tolist() == rows[[3, 3, 0]].tolist()
    assert torch.equal(parts.take(torch.tensor([3, 3, 0])), taken) and parts.take(np.arange(0)).shape == (0, 4)
    parts.verify()


def test_the_fingerprint_follows_tokens_and_settings(tmp_path: Path) -> None:
    rows = np.zeros((2, 4), dtype=np.int64)
    files = [
        write(tmp_path / "a", rows),
        write(tmp_path / "b", rows + 1),
        write(tmp_path / "c", rows, mask_id=98),
        write(tmp_path / "d", rows, settings={"split": "valid"}),
    ]
    assert len({file.fingerprint for file in files}) == 4
    elsewhere = write(tmp_path / "e", rows, origin={"text": "elsewhere"})
    assert elsewhere.fingerprint == files[0].fingerprint and elsewhere.origin == {"text": "elsewhere"}


def test_a_file_that_shrinks_while_it_is_in_use_kills_nobody(tmp_path: Path) -> None:
    file = write(tmp_path / "file", np.full((3000, 4), 7))
    assert file.take([2999]).tolist() == [[7] * 4]
    os.truncate(tmp_path / "file/tokens.npy", 4096)  # to read row 2999 would now be SIGBUS
    for use in (lambda: file.take([2999]), lambda: file.tokens[2999]):
        with pytest.raises(ValueError, match="file/tokens.npy was cut off while it was in use: remove .*prepare"):
            use()
    assert file.rows == 3000


def test_what_is_removed_of_prepared_data_is_made_again(tmp_path: Path) -> None:
    config = DataConfig(source="synthetic", cache=str(tmp_path))
    found = prepare(config).train
    (found.path / "meta.json").write_text("")
    with pytest.raises(ValueError, match=f"remove {found.path} and prepare the data again"):
        prepare(config)
    shutil.rmtree(found.path)
    assert prepare(config).train.fingerprint == found.fingerprint


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "small", np.full((1, 4), 65534), vocab_size=65535).tokens.dtype == np.uint16
    large = write(tmp_path / "large", np.full((1, 4), 70000), vocab_size=70001)
    assert large.tokens.dtype == np.uint32 and large.take([0]).tolist() == [[70000] * 4]


def damage_tail(folder: Path) -> None:
    os.truncate(folder / "tokens.npy", (folder / "tokens.npy").stat().st_size - 1)


def damage_header(folder: Path) -> None:
    os.truncate(folder / "tokens.npy", 20)


def damage_growth(folder: Path) -> None:
    with open(folder / "tokens.npy", "ab") as handle:
        handle.write(b"\0" * 8)


def damage_meta(folder: Path) -> None:
    (folder / "meta.json").write_text((folder / "meta.json").read_text().replace('"mask_id": 99', '"mask_id": 98'))


def damage_json(folder: Path) -> None:
    (folder / "meta.json").write_text("{")


def damage_missing(folder: Path) -> None:
    (folder / "tokens.npy").unlink()


@pytest.mark.parametrize(
    "damage", [damage_tail, damage_header, damage_growth, damage_meta, damage_json, damage_missing]
)
def test_a_damaged_file_does_not_open(tmp_path: Path, damage: object) -> None:
    write(tmp_path / "file", np.zeros((9, 4), dtype=np.int64))
    damage(tmp_path / "file")  # type: ignore[operator]
    with pytest.raises(ValueError, match=": remove .*again"):
        TokenFile.open(tmp_path / "file")


def test_a_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    file = write(tmp_path / "file", np.zeros((9, 4), dtype=np.int64))
    with open(tmp_path / "file/tokens.npy", "r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"\1")
    TokenFile.open(tmp_path / "file")
    with pytest.raises(ValueError, match="has changed: remove"):
        file.verify()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> object:
        yield np.zeros((2, 4), dtype=np.int64)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write(tmp_path / "file", rows())
    with pytest.raises(ValueError, match="file: the text is shorter than a row of data.length=4"):
        write(tmp_path / "file", [])
    assert list(tmp_path.iterdir()) == []


# --- reading


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    texts = sentences(30)
    lines = "\n".join(texts) + "\n"
    objects = "".join(json.dumps({"id": at, "body": text}) + "\n" for at, text in enumerate(texts))
    folder = tmp_path / "odd [name] *"
    folder.mkdir()
    (folder / "a.txt").write_text(lines.replace(".\n", ".\n\n"))
    (folder / "b.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "news.en.heldout-00000-of-00050.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "d.jsonl").write_text(objects)
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(objects.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"id": range(30), "body": texts}), folder / "f.parquet")
    for path in sorted(folder.iterdir()):
        config = DataConfig(
            root=str(folder),
            source="files",
            train=(path.name,),
            valid=(path.name,),
            text_field="body",
            cache=str(tmp_path),
        )
        found = list(chain.from_iterable(text_batches(read_documents(config, "train"), config, "")))
        assert found == texts, path.name
    config = changed(config, train=("d.*", "[bn]*.gz", "f.parquet", "a.txt"))
    found = list(chain.from_iterable(text_batches(read_documents(config, "train"), config, "")))
    assert found == texts * 5


def test_relative_names_start_from_the_root_that_is_set(
    corpus: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_root = list(read_documents(corpus, "valid"))
    monkeypatch.setenv("IMDM_DATA", corpus.root)
    assert list(read_documents(changed(corpus, root=""), "valid")) == by_root
    with pytest.raises(ValueError, match=f"data.valid names valid.txt, which is no file under {tmp_path} .data.root."):
        read_documents(changed(corpus, root=str(tmp_path)), "valid")
    monkeypatch.setenv("IMDM_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=rf"no file under {tmp_path} \(IMDM_DATA\): .* set data.root or IMDM_DATA"):
        read_documents(changed(corpus, root=""), "valid")
    monkeypatch.delenv("IMDM_DATA")
    monkeypatch.chdir(corpus.root)
    assert list(read_documents(changed(corpus, root=""), "valid")) == by_root


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "data.train names missing.txt, which is no file"),
        ("empty.txt", b"", "data.train: empty.txt is empty"),
        ("blank.txt", b"\n\n \n", r"^data.train \(blank.txt\) holds no text: give more, or other files$"),
        ("blank.txt.gz", gzip.compress(b"", mtime=0), r"^data.train \(blank.txt.gz\) holds no text: "),
        ("null.jsonl", b'{"text": null}\n', r"^data.train \(null.jsonl\) holds no text: "),
        ("short.txt", b"word\n", r"^data.train \(short.txt\): the text is shorter than a row of data.length=16"),
        ("latin.txt", b"caf\xe9\n", "data.train: .*/latin.txt, line 1: byte 0xe9 is no UTF-8"),
        (
            "cut.gz",
            gzip.compress("\n".join(sentences(3000)).encode(), mtime=0)[:-500],
            "data.train: .*/cut.gz cannot be decompressed as .gz",
        ),
        ("plain.gz", b"no gzip", "data.train: .*/plain.gz cannot be decompressed as .gz"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "data.train: .*/bad.jsonl, line 2: no JSON"),
        ("field.jsonl", b'{"body": "a"}\n', "field.jsonl has no field text: set data.text_field to one of body"),
        ("number.jsonl", b'{"text": 5}\n', "number.jsonl, line 1: field text is no text, and there is no field of"),
        ("bad.parquet", b"no", "data.train: .*/bad.parquet cannot be read as parquet"),
    ],
)
def test_bad_text_is_named_and_leaves_nothing(
    corpus: DataConfig, bpe_folder: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (Path(corpus.root) / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        prepare(changed(corpus, train=(name,), tokenizer=str(bpe_folder)))
    assert "\n" not in str(caught.value)
    assert {path.name for path in Path(corpus.cache).glob("*") if path.suffix != ".lock"} <= {"digests"}


def test_hub_names_go_to_datasets(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(name: str, split: str, cache_dir: str) -> datasets.Dataset:
        calls.append((name, split, cache_dir))
        if name == "no/such":
            raise datasets.exceptions.DatasetNotFoundError("no such data set")
        return datasets.Dataset.from_dict({"text": sentences(50), "id": range(50)})

    monkeypatch.setattr("datasets.load_dataset", load)
    hub = changed(corpus, source="hub", name="some/text", train=("train[:-100]",), valid=())
    assert list(read_documents(hub, "train")) == list(read_documents(hub, "valid")) == sentences(50)
    kept = str(Path(corpus.cache) / "datasets")
    assert calls == [("some/text", "train[:-100]", kept), ("some/text", "validation", kept)]
    for field, said in (("id", "field id is no text"), ("body", "has no field body")):
        with pytest.raises(ValueError, match=f"^data.train: some/text.* {said}: set data.text_field to one of text$"):
            read_documents(changed(hub, text_field=field), "train")
    with pytest.raises(ValueError, match="data.name=no/such with split .* does not load .no such data set.: correct"):
        read_documents(changed(hub, name="no/such"), "train")
    with pytest.raises(ValueError, match="data.train names 2 hub splits: name one"):
        prepare(changed(hub, train=("train", "test")))


def test_the_embedded_english(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, valid = read_embedded("train"), read_embedded("valid")
    assert not set(train) & set(valid)
    assert sum(map(len, train)) > 1_000_000 and sum(map(len, valid)) > 30_000
    assert min(map(len, [*train, *valid])) > 200
    assert any("assert_stmt" in text for text in [*train, *valid])
    data = prepare(DataConfig(cache=str(tmp_path)))
    assert data.tokenizer is not None
    assert (data.tokenizer.vocab_size, data.train.vocab_size, data.train.mask_id) == (1025, 1025, 1024)
    assert data.train.rows > 10_000 and data.valid.rows > 300 and data.train.length == 32
    first = data.tokenizer.decode(data.train.take([0])[0]).removeprefix("<|endoftext|>").removesuffix("<|endoftext|>")
    assert train[0].startswith(first)


def test_two_builds_of_one_python_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest follows the text, is kept, and is looked up by what the text is made from."""

    def digest(split: str = "train") -> str:
        embedded._documents.cache_clear()
        embedded._sources_digest.cache_clear()
        return embedded.embedded_digest(split, tmp_path / "cache")  # type: ignore[arg-type]

    library = tmp_path / "library"
    (library / "site-packages").mkdir(parents=True)
    monkeypatch.setattr("imdm_dist.data.embedded.sysconfig.get_paths", lambda: {"stdlib": str(library)})
    try:
        module = library / "module.py"
        module.write_text(f'"""{TEXT} {TEXT} {TEXT}"""\n')
        first = {split: digest(split) for split in ("train", "valid")}
        assert first["train"] != first["valid"]
        (library / "site-packages" / "other.py").write_text(f'"""{TEXT} {TEXT} {TEXT} again"""\n')
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "read_embedded", lambda split: pytest.fail("parsed once more"))
            assert digest() == first["train"]
        module.write_text(module.read_text() + "# a comment\n")
        assert digest() == first["train"]
        config = DataConfig(cache=str(tmp_path / "cache"))
        identity = source_identity(config, "train"), source_identity(config, "valid")
        module.write_text(module.read_text().replace("cat", "dog"))
        assert {split: digest(split) for split in first} != first
        assert (source_identity(config, "train"), source_identity(config, "valid")) != identity
        assert len(list((tmp_path / "cache").iterdir())) == 3
    finally:
        embedded._documents.cache_clear()
        embedded._sources_digest.cache_clear()


# --- building once


def test_prepared_data_is_found_again_and_made_anew_when_it_must_be(
    corpus: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(corpus)
    said = capsys.readouterr().err
    assert "building a BPE of 320 entries" in said and "building rows of 16 tokens" in said
    assert first.tokenizer is not None
    expected = packed_by_hand(sentences(300), first.tokenizer, 16)
    assert first.train.take(np.arange(first.train.rows)).tolist() == expected
    assert not (first.train.tokens == first.train.mask_id).any()
    assert first.train.settings["split"] == "train" and first.train.origin["length"] == 16

    os.rename(corpus.root, tmp_path / "moved")
    moved = changed(corpus, root=str(tmp_path / "moved"))
    again = prepare(moved)
    assert "building" not in capsys.readouterr().err
    assert again.train.fingerprint == first.train.fingerprint != first.valid.fingerprint

    longer = prepare(changed(moved, length=24))
    said = capsys.readouterr().err
    assert "building rows of 24 tokens" in said and "BPE" not in said.replace("building rows", "")
    assert longer.train.length == 24

    (tmp_path / "moved" / "valid.txt").write_text("\n".join(sentences(60, seed=2)))
    other = prepare(moved)
    assert "building rows of 16 tokens" in capsys.readouterr().err
    assert other.valid.fingerprint != first.valid.fingerprint and other.train.fingerprint == first.train.fingerprint


def test_sentence_packing_closes_every_line(corpus: DataConfig, bpe_folder: Path) -> None:
    texts = sentences(90)
    documents = ["\n".join(texts[at : at + 3]) for at in range(0, 90, 3)]
    path = Path(corpus.root) / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    config = changed(corpus, train=(path.name,), tokenizer=str(bpe_folder))
    for packing, expected in (("document", documents), ("sentence", texts)):
        data = prepare(changed(config, packing=packing))
        assert data.tokenizer is not None
        assert data.train.tokens.tolist() == packed_by_hand(expected, data.tokenizer, 16)


def test_detokenised_text_is_what_is_packed(corpus: DataConfig, bpe_folder: Path) -> None:
    (Path(corpus.root) / "train.txt").write_text("They don 't know , he said .\n" * 20)
    data = prepare(changed(corpus, tokenizer=str(bpe_folder), packing="sentence", detokenizer="lm1b"))
    assert data.tokenizer is not None
    assert data.train.tokens.tolist() == packed_by_hand(["They don't know, he said."] * 20, data.tokenizer, 16)


def test_the_synthetic_language(tmp_path: Path) -> None:
    data = prepare(DataConfig(source="synthetic", cache=str(tmp_path)))
    assert data.tokenizer is None
    for split in (data.train, data.valid):
        assert split.take([0, 1]).tolist() == [[0, 0], [1, 1]]
        assert (split.rows, split.length, split.vocab_size, split.mask_id) == (2, 2, 3, 2)


def test_what_a_killed_build_left_is_swept(corpus: DataConfig, bpe_folder: Path) -> None:
    config = changed(corpus, tokenizer=str(bpe_folder))
    folder = prepare(config).train.path.parent
    left = folder.with_name(f".{folder.name}.0123.tmp")
    os.rename(folder, left)
    assert prepare(config).train.path.parent == folder
    assert not left.exists()


BUILDER = """
import sys, time
from pathlib import Path
from imdm_dist.config.data import DataConfig
from imdm_dist.data import prepare
here, number = Path(sys.argv[1]), sys.argv[2]
(here / f"ready{number}").touch()
while len(list(here.glob("ready*"))) < 2:
    time.sleep(0.001)
config = DataConfig(root=str(here), source="files", train=("text/train.txt",), valid=("text/valid.txt",), bpe_size=320,
                    length=16, cache=str(here / "cache"))
data = prepare(config)
print(data.train.fingerprint, data.valid.fingerprint, data.tokenizer.fingerprint)
"""


def test_two_processes_that_start_together_build_once(corpus: DataConfig, tmp_path: Path) -> None:
    (Path(corpus.root) / "train.txt").write_text("\n".join(sentences(20_000)) + "\n")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [worker.communicate(timeout=100) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    said = "".join(error for _, error in outputs)
    assert said.count("building a BPE") == 1 and said.count("building rows") == 1, said
    assert outputs[0][0] == outputs[1][0] != ""
    folders = [path.name for path in Path(corpus.cache).iterdir() if path.suffix != ".lock" and path.name != "digests"]
    assert len(folders) == 2, folders


LM1B = Path(os.environ.get("IMDM_DATA", "")) / "lm1b_heldout" / "news.en.heldout-00000-of-00050.gz"


@pytest.mark.skipif(not LM1B.is_file(), reason="IMDM_DATA holds no LM1B text")
def test_real_lm1b_sentences_with_the_real_bert_tokenizer(tmp_path: Path) -> None:
    name = str(LM1B)
    config = DataConfig(
        source="files",
        train=(name,),
        valid=(name,),
        tokenizer="bert_tokenizer",
        packing="sentence",
        detokenizer="lm1b",
        length=128,
        cache=str(tmp_path),
    )
    data = prepare(config)
    assert (data.train.vocab_size, data.train.mask_id, data.train.bos_id, data.train.eos_id) == (30522, 103, 101, 102)
    body = data.train.tokens[:, 1:-1]
    with gzip.open(LM1B, "rt", encoding="utf-8") as handle:
        lines = sum(1 for line in handle if line.strip())
    assert 0 <= lines - (body == 102).sum() <= 20  # the tail that fills no row
    assert not (body == 103).any() and (body == 100).mean() < 1e-3
