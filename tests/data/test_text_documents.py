"""What a document is, which of them are for validation, and what tells one text from another."""

from __future__ import annotations

import gzip
import os
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from imdm_dist.config.data import DataConfig
from imdm_dist.data import prepare
from imdm_dist.data.corpus import say_repeated, source_identity
from imdm_dist.data.split_documents import first_look
from imdm_dist.data.tokenizer import train_bpe
from tests.data.test_text_files import config_of, json_lines, texts_of, write_parquet

NOVEL = (
    "It was a bright cold day in the spring of that year, and the clocks of\n"
    "the whole town were striking as they had never been heard to strike in\n"
    "all the years before, so that people stood still and looked up to them\n"
    "and did not know what to say to each other about it.\n"
)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("line", ["a b", "c", "", "d", " ", "", "e", "f"]),
        ("paragraph", ["a b\nc", "d", "e\nf"]),
        ("file", ["a b\nc\n\nd\n \n\ne\nf"]),
    ],
)
def test_a_document_is_a_line_a_paragraph_or_a_file(tmp_path: Path, document: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text("a b\nc\n\nd\n \n\ne\nf\n")
    (tmp_path / "b.jsonl").write_bytes(json_lines(["g\n\nh"]))
    config = config_of(tmp_path, "a.txt", "b.jsonl", document=document)
    assert texts_of(config) == [text for text in [*expected, "g\n\nh"] if text.strip()]
    assert DataConfig().document == "line"


def test_lines_that_look_wrapped_are_warned_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text((NOVEL + "\n") * 30)
    (tmp_path / "b.txt").write_text(NOVEL * 30)
    (tmp_path / "c.txt").write_text(" ".join(NOVEL.split()) + "\n")
    prepare(config_of(tmp_path, "c.txt", "a.txt", "b.txt", bpe_size=300, length=16))
    said = capsys.readouterr().err
    assert said.count("hard-wrapped") == 1
    warned = "^/.*a.txt looks hard-wrapped at 70 characters, .*: set data.document=paragraph or file, unless .* meant$"
    assert re.search(warned, said, re.MULTILINE) and said.index("hard-wrapped") < said.index("BPE: reading")
    prepare(config_of(tmp_path, "a.txt", document="paragraph", bpe_size=300, length=16))
    assert "hard-wrapped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "They said so at the market on Monday , and nobody knew who had been there .\n" * 50,
        "a list\nof short\nlines\n" * 50,
        "\n".join("word " * (3 + 7 * at % 40) for at in range(100)),
        "One sentence on a line that has no stop at its end and is as long as this\n" * 50,
        "",
    ],
)
def test_lines_that_are_documents_are_not_warned_about(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("some\n")
    first_look(config_of(tmp_path, "a.txt", "b.txt"))
    assert "hard-wrapped" not in capsys.readouterr().err


# --- validation


def test_a_share_for_validation_is_split_off_by_content(tmp_path: Path) -> None:
    texts = [f"text number {at}" for at in range(2000)]
    (tmp_path / "a.txt").write_text("\n".join(texts[:1000] + texts[:100]) + "\n")
    (tmp_path / "b.jsonl").write_bytes(json_lines(texts[1000:]))
    config = config_of(tmp_path, "a.txt", "b.jsonl", valid=(), valid_share=0.1)
    train, valid = texts_of(config), texts_of(config, "valid")
    assert not set(train) & set(valid) and set(train) | set(valid) == set(texts)
    assert len(train) + len(valid) == 2100 and 150 < len(set(valid)) < 250
    other = config_of(tmp_path, "b.jsonl", "a.txt", valid=(), valid_share=0.1)
    assert set(texts_of(other, "valid")) == set(valid)
    more = config_of(tmp_path, "a.txt", "b.jsonl", valid=(), valid_share=0.2)
    assert set(texts_of(more, "valid")) > set(valid)


def test_the_bpe_of_a_split_text_sees_training_text_alone(tmp_path: Path) -> None:
    texts = [f"{at:x} the cat sat on a mat while it rained" for at in range(400)]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    config = config_of(tmp_path, "a.txt", valid=(), valid_share=0.25, bpe_size=320, length=16)
    data = prepare(config)
    train_bpe(texts_of(config), 320, tmp_path / "bpe")
    assert data.tokenizer is not None
    made = Path(next((tmp_path / "cache").glob("bpe-*"))) / "tokenizer.json"
    assert made.read_bytes() == (tmp_path / "bpe" / "tokenizer.json").read_bytes()
    assert 0.15 < data.valid.rows / (data.train.rows + data.valid.rows) < 0.35


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "files", "train": ("a",)}, "needs data.train and data.valid: .* or split .* data.valid_share=0.01"),
        ({"source": "files", "train": ("a",), "valid": ("b",), "valid_share": 0.1}, "are both set: leave one"),
        ({"valid_share": 0.1}, "splits text of your own, and data.source is embedded: leave it out"),
        ({"source": "hub", "name": "a", "valid_share": 1.0}, "data.valid_share is 1.0: set it to 0 or more, below 1"),
    ],
)
def test_contradicting_settings_of_validation_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["blank.txt", "blank.txt.gz", "none.parquet", "null.parquet"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_without_text_is_named_before_a_bpe_is_trained(tmp_path: Path, name: str, split: str) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "blank.txt.gz").write_bytes(gzip.compress(b""))
    write_parquet(tmp_path / "none.parquet", text=pa.array([], pa.string()))
    write_parquet(tmp_path / "null.parquet", text=pa.nulls(3))
    (tmp_path / "good.txt").write_text(NOVEL)
    names = {"train": ("good.txt",), "valid": ("good.txt",)} | {split: (name, name)}
    config = config_of(tmp_path, *names["train"], valid=names["valid"], bpe_size=300, length=16)
    with pytest.raises(
        ValueError, match=rf"^data.{split} \({name}, {name}\) holds no text: give more, or other files$"
    ):
        prepare(config)
    assert [path for path in (tmp_path / "cache").glob("*") if path.is_dir() and path.name != "digests"] == []


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1e-12, "for validation, less than a row of data.length=16: raise data.valid_share, or give more text"),
        (1 - 1e-12, "for training, less than a row of data.length=16: lower data.valid_share, or give more text"),
    ],
)
@pytest.mark.parametrize("tokenizer", ["embedded", "bpe"])
def test_a_share_that_leaves_no_text_is_named(tmp_path: Path, share: float, said: str, tokenizer: str) -> None:
    (tmp_path / "a.txt").write_text(NOVEL * 9)
    if tokenizer != "embedded":
        train_bpe([NOVEL, "Some plain words, and the number 42."] * 9, 300, tmp_path / tokenizer)
    config = config_of(tmp_path, "a.txt", valid=(), valid_share=share, bpe_size=300, length=16, tokenizer=tokenizer)
    with pytest.raises(
        ValueError, match=rf"^data.valid_share={share} leaves too little of data.train \(a.txt\) {said}$"
    ):
        prepare(config)


# --- what is the same


def test_the_same_file_twice_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("a.txt", "one\n"), ("b.txt", "two\n"), ("copy.txt", "one\n"), ("valid.txt", "three\n")):
        (tmp_path / name).write_text(text)

    def said(train: tuple[str, ...], valid: tuple[str, ...]) -> str:
        config = config_of(tmp_path, *train, valid=valid)
        say_repeated(config, {"train": source_identity(config, "train"), "valid": source_identity(config, "valid")})
        return capsys.readouterr().err

    assert said(("a.txt", "b.txt"), ("valid.txt",)) == ""
    assert "data.train holds the same text more than once: a.txt = a.txt" in said(("a.txt", "[ab].txt"), ("valid.txt",))
    assert "data.train holds the same text more than once: a.txt = copy.txt" in said(
        ("a.txt", "copy.txt"), ("valid.txt",)
    )
    assert "data.valid holds files that data.train holds too: valid.txt; " in said(("[bv]*.txt",), ("valid.txt",))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.txt").write_text("four\n")
    again = "data.train holds the same text more than once: one/good.txt = two/good.txt"
    assert again in said(("one", "two"), ("valid.txt",))
    assert "holds too: two/good.txt; " in said(("one",), ("two",))


def test_a_change_inside_a_file_of_the_same_size_is_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.txt"
    path.write_bytes(rng.integers(97, 123, 5 * 2**20, dtype=np.uint8).tobytes())
    config = config_of(tmp_path, "a.txt")
    first, times = source_identity(config, "train"), path.stat()
    with open(path, "r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(b"X")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = source_identity(config, "train")
    assert first != second and first[0][:2] == second[0][:2]


def test_a_file_that_is_left_alone_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    config = config_of(tmp_path, "a.txt")
    monkeypatch.setattr("imdm_dist.data.digest._SETTLED", 0.02)
    time.sleep(0.1)
    first = source_identity(config, "train")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    assert source_identity(config, "train") == first
    with monkeypatch.context() as patch:
        patch.setattr("imdm_dist.data.digest._hash", lambda path, bar: pytest.fail("hashed once more"))
        assert source_identity(config, "train") == first
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("{")  # cut off
    assert source_identity(config, "train") == first
    (tmp_path / "a.txt").write_text("two\n")
    assert source_identity(config, "train") != first
