"""Files of text as people have them: names, compressions, encodings, fields, rows without text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imdm_dist.config.data import DataConfig
from imdm_dist.data.corpus import resolve_files, source_identity
from imdm_dist.data.prompts import read_prompts
from imdm_dist.data.split_documents import read_documents, text_batches
from imdm_dist.data.text_file import TextFile, kind_of
from imdm_dist.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from imdm_dist.files import read_json, refuse_lfs_pointers

TEXTS = ["The first text.", "A second one, naïve.", "Third."]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def config_of(folder: Path, *train: str, **settings: Any) -> DataConfig:
    return DataConfig(
        root=str(folder), source="files", train=train, cache=str(folder / "cache"), **{"valid": train} | settings
    )


def texts_of(config: DataConfig, split: str = "train") -> list[str]:
    """The documents, as the packing gets them."""
    return [text for batch in text_batches(read_documents(config, split), config, "") for text in batch]  # type: ignore[arg-type]


def json_lines(texts: list[str], **more: object) -> bytes:
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts).encode()


def write_parquet(path: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), path)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".GZ": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".two.gz": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
}


# --- names


@pytest.mark.parametrize("packed", [name for name in PACK if name != ".two.gz"])
@pytest.mark.parametrize("ending", [".txt", ".TXT", ".jsonl", ".JSONL", ".ndjson", ".json", ".parquet", ".Parquet", ""])
def test_known_endings_are_read_in_any_case_and_compression(tmp_path: Path, ending: str, packed: str) -> None:
    if ending.lower() == ".parquet":
        write_parquet(tmp_path / "made", text=TEXTS, other=[1, 2, 3])
        content = (tmp_path / "made").read_bytes()
    else:
        content = json_lines(TEXTS, other=[]) if "j" in ending.lower() else "\n".join(TEXTS).encode()
    (tmp_path / f"some{ending}{packed}").write_bytes(PACK[packed](content))
    assert texts_of(config_of(tmp_path, f"some{ending}{packed}")) == TEXTS


def test_a_file_in_several_compressed_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    content = "\n".join(TEXTS).encode()
    for name in (".gz", ".bz2", ".xz", ".zst"):
        (tmp_path / f"a.txt{name}").write_bytes(PACK[name](content[:20]) + PACK[name](content[20:]))
        assert texts_of(config_of(tmp_path, f"a.txt{name}")) == TEXTS


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv.gz", "a.zip", "a.tar.gz", "a.pdf", "a.html", "a.xml", "a.md", "a.jsonl.lz4", "a.CSV"]
)
def test_unknown_endings_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"a,b\n")
    with pytest.raises(ValueError, match=rf"data.train: .*/{name} ends in \.\w+, which is not read: give .txt, "):
        source_identity(config_of(tmp_path, name), "train")


@pytest.mark.parametrize("name", ["news.en.heldout-00010-of-00050.gz", "news.en-00001-of-00100", "enwik8", "wiki.raw"])
def test_names_without_an_ending_are_plain_text(name: str) -> None:
    assert kind_of(Path(name)) == "text"


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
@pytest.mark.parametrize(
    "line", ['{"text": "a"}', '[{"text": "a"}]', '{ "text": "a",\n"b": 1}', '{\n"text": "a"\n}', '[\n{\n"text": "a"}]']
)
def test_json_under_a_name_of_plain_text_is_refused(tmp_path: Path, line: str, document: str) -> None:
    (tmp_path / "a.jsonl.txt").write_text(f"\n{line}\n{line}\n")
    with pytest.raises(ValueError, match=r"data.train: .*a.jsonl.txt, line 2: a JSON object, .* ends in .jsonl"):
        texts_of(config_of(tmp_path, "a.jsonl.txt", document=document))
    for lines in (["{a brace}", "[a bracket]"], ["{", "a brace"], ["[", "1"], ["[", '{"text": "a"} said she']):
        (tmp_path / "b.txt").write_text("\n".join(lines))
        assert texts_of(config_of(tmp_path, "b.txt", document=document)) == (
            lines if document == "line" else ["\n".join(lines)]
        )


def test_json_as_an_array_or_over_several_lines(tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    (tmp_path / "array.json").write_text(json.dumps(rows))
    (tmp_path / "indented.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "one.json").write_text(json.dumps(rows[0], indent=1))
    assert texts_of(config_of(tmp_path, "array.json", "indented.json", "one.json")) == TEXTS * 2 + TEXTS[:1]
    for at, begin in enumerate(['{ "text": "A",\n"b": 1 }', '{"text": "A", "b":\n\n[1,\n2]}', '\n{"text"\n: "A"}\n\n']):
        (tmp_path / f"{at}.json").write_text(begin)
        assert texts_of(config_of(tmp_path, f"{at}.json")) == ["A"]
        (tmp_path / f"{at}.jsonl").write_text(f"{begin}\n" + "\n".join(json.dumps(row, indent=1) for row in rows))
        assert texts_of(config_of(tmp_path, f"{at}.jsonl")) == ["A", *TEXTS]
    (tmp_path / "flat.json").write_text('[{"text": "a"},\n{"text": "b"}]')
    assert texts_of(config_of(tmp_path, "flat.json")) == ["a", "b"]
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n\n"text"\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 3: a string where a JSON object is due"):
        texts_of(config_of(tmp_path, "bad.jsonl"))


@pytest.mark.parametrize(
    ("content", "line", "cause"),
    [
        ('{"text": "a"}\n{"text": \n{"text": "b"}\n', 2, "Expecting value"),
        ('{"text": "a",\n"b" 1}\n', 2, "Expecting ':' delimiter"),
        ('{"text": "a"}x\n{"text": "b"}\n', 1, "Extra data"),
        ('{"text": "a\n{"text": "b"}\n', 1, "Unterminated string"),
        ('\n{\n"text": "a"\n}\n{\n"text" "b"\n}\n', 6, "Expecting ':' delimiter"),
        ('[{"text": "a"},\n{"text": "b"},\n', 2, "Expecting value"),
    ],
)
def test_json_that_is_none_is_named_by_line(tmp_path: Path, content: str, line: int, cause: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(
        ValueError, match=rf"^data.train: .*a.jsonl, line {line}: no JSON \({cause}.*: correct that line$"
    ):
        texts_of(config_of(tmp_path, "a.jsonl"))


def test_a_folder_stands_for_the_files_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    (data / "b").mkdir(parents=True)
    (data / ".hidden").mkdir()
    (data / ".hidden" / "x.txt").write_text("hidden\n")
    (data / "README").write_text("about\n")
    (data / "b" / "a.txt").write_text("two\n")
    (data / "a.txt.gz").write_bytes(gzip.compress(b"one\n"))
    (data / "c.jsonl").write_bytes(json_lines(["three"]))
    assert texts_of(config_of(tmp_path, "data")) == ["one", "two", "three"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="data.train names none, a folder without .txt, .* files: name the files"):
        resolve_files(config_of(tmp_path, "none"), "train")


# --- bytes


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.xz"])
def test_bytes_that_are_no_utf8_are_named_by_file_and_line(tmp_path: Path, ending: str) -> None:
    good = json_lines(["word " * 50] * 400) if "jsonl" in ending else b"word\r\nword\rword\n" * 400
    line = 401 if "jsonl" in ending else 1201
    bad = b'{"text": "caf\xe9"}\n' if "jsonl" in ending else b"caf\xe9\n"
    (tmp_path / f"a.{ending}").write_bytes(PACK.get(f".{ending.partition('.')[2]}", PACK[""])(good + bad + good))
    with pytest.raises(ValueError, match=rf"data.train: .*a.{ending}, line {line}: byte 0xe9 is no UTF-8: convert"):
        texts_of(config_of(tmp_path, f"a.{ending}"))


def test_rows_of_parquet_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    column = pa.array([b"good"] * 1500 + [b"caf\xe9"], pa.binary()).view(pa.string())
    write_parquet(tmp_path / "a.parquet", text=column)
    with pytest.raises(
        ValueError, match=r"data.train: .*a.parquet, row 1501: byte 0xe9 is no UTF-8: repair or replace"
    ):
        texts_of(config_of(tmp_path, "a.parquet"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a"])
@pytest.mark.parametrize(
    ("encoding", "what", "given"),
    [
        ("utf-16", "UTF-16", "UTF-16"),
        ("utf-32", "UTF-32", "UTF-32"),
        ("utf-16-le", "UTF-16 without a byte order mark", "UTF-16LE"),
        ("utf-16-be", "UTF-16 without a byte order mark", "UTF-16BE"),
        ("utf-32-le", "UTF-32 without a byte order mark", "UTF-32LE"),
        ("utf-32-be", "UTF-32 without a byte order mark", "UTF-32BE"),
    ],
)
@pytest.mark.parametrize("text", ["some text\n", '{"text": "some – naïve text"}\n' * 90, "и какой-то текст\n" * 9])
def test_utf16_and_utf32_are_named(
    tmp_path: Path, bpe: Tokenizer, name: str, encoding: str, what: str, given: str, text: str
) -> None:
    (tmp_path / name).write_bytes(PACK[".gz" if name.endswith(".gz") else ""](text.encode(encoding)))
    said = rf"{name} is {what}: convert it, e.g. with iconv -f {given} -t UTF-8$"
    with pytest.raises(ValueError, match=f"^data.train: .*{said}"):
        source_identity(config_of(tmp_path, name), "train")
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name, bpe, 8)


@pytest.mark.parametrize(
    "text",
    [
        "a\0" + "some words\n" * 9,
        "words\0\0\0\0more\n",
        "\0" + "ü" * 999,
        "\0" * 64,
        "BZh and PK, PAR1 too\n",
        "\n",
        "a\0b\n",
    ],
)
def test_text_that_looks_a_little_like_something_else_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    source_identity(config_of(tmp_path, "a.txt"), "train")
    assert [line for _, line in TextFile(tmp_path / "a.txt").lines()] == text.removesuffix("\n").split("\n")


# --- files of another kind than their names say


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        (about := tarfile.TarInfo("a.txt")).size = len(content)
        archive.addfile(about, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        *(
            (f"a{ending}", PACK[packed], f"is compressed as {packed} files are, .* ends in {ending}{packed}$")
            for ending in (".jsonl", ".txt", ".parquet", "")
            for packed in (".gz", ".bz2", ".xz", ".zst")
        ),
        (
            "a.txt.gz",
            PACK[".zst"],
            "is compressed as .zst files are, and its name says .gz: give it .* that ends in .txt.zst$",
        ),
        ("a.txt.gz", lambda data: PACK[".gz"](PACK[".xz"](data)), "decompresses to a file .* as .xz files are: unpack"),
        ("a.jsonl", zipped, "is a zip archive, which is not read: take the text out of it$"),
        ("a.parquet", zipped, "is a zip archive, which is not read"),
        ("a.txt.gz", lambda data: PACK[".gz"](tarred(data)), "is a tar archive, which is not read"),
        ("a.txt", lambda data: b"%PDF-1.7\n" + data, "is a PDF, which is not read"),
        (
            "a.txt",
            lambda data: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + data,
            "is binary, or UTF-16 without a byte order mark",
        ),
        (
            "a.jsonl",
            lambda data: "汉字没有标记，一行又一行，许多不同的字\n".encode("utf-16-le") * 9,
            "is binary, or UTF-16",
        ),
        ("a.txt.gz", lambda data: data, r"cannot be decompressed as .gz .*, or take .gz off its name if it is not"),
    ],
)
def test_files_of_another_kind_than_their_names_say_are_named(
    tmp_path: Path, bpe: Tokenizer, name: str, make: Callable[[bytes], bytes], said: str
) -> None:
    (tmp_path / name).write_bytes(make(b"some plain words\n" * 99))
    for read in (source_identity, lambda config, split: texts_of(config)):
        with pytest.raises(ValueError, match=f"^data.train: .*/{name} {said}"):
            read(config_of(tmp_path, name), "train")
    if "parquet" not in name:
        with pytest.raises(ValueError, match=f"/{name} {said}"):
            read_prompts(tmp_path / name, bpe, 8)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a"])
def test_parquet_under_another_name_is_named(tmp_path: Path, name: str) -> None:
    packed = ".gz" if name.endswith(".gz") else ""
    for texts in (TEXTS, []):
        write_parquet(tmp_path / "made", text=pa.array(texts, pa.string()))
        (tmp_path / name).write_bytes(PACK[packed]((tmp_path / "made").read_bytes()))
        with pytest.raises(ValueError, match=f"/{name} is parquet: give it .* that ends in .parquet{packed}$"):
            source_identity(config_of(tmp_path, name), "train")


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "whole \\ud83d\\ude00"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: .*half of a surrogate pair"):
        texts_of(config_of(tmp_path, "a.jsonl"))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bpe")
    train_bpe(["Some plain words, and the number 42."] * 5, 300, folder)
    return load_tokenizer(str(folder))


def test_marks_are_dropped_and_lines_end_alike_wherever_text_is_read(tmp_path: Path, bpe: Tokenizer) -> None:
    expected = ["one\u2028still\x0bone\x85\x1c", "two", "three", "four"]
    text = "\ufeff" + expected[0] + "\ntwo\r\nthree\r\ufefffour"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines([text.replace("\r\ufeff", "\r")]))
    write_parquet(tmp_path / "a.parquet", text=[text.replace("\r\ufeff", "\r")])
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert texts_of(config_of(tmp_path, name, packing="sentence")) == expected, name
    rows_PL = read_prompts(tmp_path / "a.txt", bpe, 64)
    assert [bpe.decode(row_L[row_L != bpe.mask_id][1:]) for row_L in rows_PL] == expected
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.txt, line 2: byte 0xe9 is no UTF-8"):
        read_prompts(tmp_path / "latin.txt", bpe, 64)
    (tmp_path / "marked.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "marked.json") == {"a": 1}
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match=r"latin.json is not readable JSON"):
        read_json(tmp_path / "latin.json")


def test_position_reaches_the_size_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(os.urandom(60_000).hex(" ").replace(" ", "\n").encode()))
    write_parquet(tmp_path / "b.parquet", text=["text"] * 3000)
    texts = read_documents(config_of(tmp_path, "a.txt.gz", "b.parquet"), "train")
    seen = []
    for _ in texts:
        seen.append(texts.position)
    assert seen == sorted(seen) and len(set(seen)) > 10
    assert texts.position == texts.total == sum(path.stat().st_size for path in tmp_path.glob("*.*"))


# --- fields


def test_other_fields_may_differ(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        json_lines(TEXTS[:1], meta={"x": 1}) + json_lines(TEXTS[1:2], meta="word") + json_lines(TEXTS[2:], n=None)
    )
    (tmp_path / "b.jsonl").write_bytes(json_lines(TEXTS, meta=[1, "a"]))
    write_parquet(tmp_path / "c.parquet", text=TEXTS, n=[1, 2, 3])
    write_parquet(tmp_path / "d.parquet", n=["a"] * 3, text=pa.array(TEXTS, pa.large_string()))
    write_parquet(tmp_path / "e.parquet", text=pa.array(TEXTS).dictionary_encode())
    write_parquet(tmp_path / "f.parquet", text=pa.array(TEXTS, pa.string_view()))
    assert texts_of(config_of(tmp_path, "*.jsonl", "*.parquet")) == TEXTS * 6


def test_rows_without_text_are_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = b'{"text": null}\n{"id": 1}\n{"text": " "}\n'
    (tmp_path / "a.jsonl").write_bytes(nothing * 10)  # the first file has no text at all
    (tmp_path / "b.jsonl").write_bytes(nothing + json_lines(TEXTS) + nothing)
    write_parquet(tmp_path / "c.parquet", text=pa.nulls(2))
    write_parquet(tmp_path / "d.parquet", text=[None, *TEXTS, ""])
    write_parquet(tmp_path / "e.parquet", other=[1, 2])
    write_parquet(tmp_path / "f.parquet", text=pa.array([], pa.string()))
    (tmp_path / "g.jsonl").write_bytes(b"")
    (tmp_path / "h.parquet").write_bytes(b"")
    (tmp_path / "i.txt.gz").write_bytes(gzip.compress(b""))
    config = config_of(tmp_path, "*.*")
    texts = read_documents(config, "train")
    assert [text for batch in text_batches(texts, config, "") for text in batch] == TEXTS * 2
    assert texts.without == {"a.jsonl": 30, "b.jsonl": 6, "c.parquet": 2, "d.parquet": 2, "e.parquet": 2}
    texts.say()
    said = capsys.readouterr().err
    assert "data.train: left out 30 of 30 rows of a.jsonl without text (null, missing or blank)" in said
    assert "data.train: left out 4 rows of 2 more files" in said


def test_a_field_that_no_row_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"doc": {"text": "a", "id": 1}, "title": "b"}\n' * 3)
    with pytest.raises(ValueError, match=r"a.jsonl has no field text: set data.text_field to one of doc.text, title$"):
        texts_of(config_of(tmp_path, "a.jsonl"))
    write_parquet(tmp_path / "a.parquet", doc=[{"text": "a", "id": 1}], title=["b"])
    with pytest.raises(ValueError, match=r"a.parquet has no field text: .* to one of doc.text, title$"):
        texts_of(config_of(tmp_path, "a.parquet"))


@pytest.mark.parametrize("row", [{"data": ["a"], "doc": {"id": 1}}, {"text": 5, "data": ["a"]}, {"text": ["a"]}, {}])
def test_fields_that_hold_no_strings_are_not_offered(tmp_path: Path, row: dict[str, object]) -> None:
    field = "field text is no text.*" if "text" in row else "has no field text"
    said = f"{field}, and there is no field of strings: give files with text$"
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    with pytest.raises(ValueError, match=f"^data.train: .*a.jsonl.* {said}"):
        texts_of(config_of(tmp_path, "a.jsonl"))
    write_parquet(tmp_path / "a.parquet", **{name: [value] for name, value in row.items()}, nothing=pa.nulls(1))
    with pytest.raises(ValueError, match=f"^data.train: .*a.parquet.* {said}"):
        texts_of(config_of(tmp_path, "a.parquet"))
    for name in ("a.jsonl", "a.parquet"):  # what is offered works
        (tmp_path / "b.jsonl").write_text(json.dumps({"body": "b", "n": 1}) + "\n")
        if "text" not in row:
            with pytest.raises(ValueError, match=r"has no field text: set data.text_field to one of body$"):
                texts_of(config_of(tmp_path, name, "b.jsonl"))
            assert texts_of(config_of(tmp_path, name, "b.jsonl", text_field="body")) == ["b"]


def test_nested_fields_are_read_by_dotted_names(tmp_path: Path) -> None:
    rows = [{"doc": {"text": text, "id": 1}} for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"doc": None}, {"doc": "x"}]))
    write_parquet(tmp_path / "a.parquet", doc=[row["doc"] for row in rows] + [None])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"doc.text": text}) + "\n" for text in TEXTS))
    write_parquet(tmp_path / "b.parquet", **{"doc.text": TEXTS})
    for name in ("a.jsonl", "a.parquet", "b.jsonl", "b.parquet"):
        assert texts_of(config_of(tmp_path, name, text_field="doc.text")) == TEXTS, name


@pytest.mark.parametrize(
    ("column", "kind"),
    [([1, 2], "int64"), ([b"a", b"b"], "binary"), ([["a"], ["b"]], "list"), ([{"a": "b"}], "struct")],
)
def test_columns_that_are_no_text_are_refused_by_type(tmp_path: Path, column: list[object], kind: str) -> None:
    write_parquet(tmp_path / "a.parquet", text=column, body=["a"] * len(column))
    with pytest.raises(ValueError, match=rf"a.parquet: field text is no text but {kind}.*: set .* to one of .*body"):
        texts_of(config_of(tmp_path, "a.parquet"))


def test_files_of_nothing_are_refused_when_there_is_nothing_else(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="data.train: a.txt, b.jsonl, c.parquet are empty: give files with text"):
        resolve_files(config_of(tmp_path, "*.*"), "train")


# --- Git-LFS and git-annex


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + POINTER, "Git-LFS pointer, .*: run git lfs pull"),
        (POINTER.replace(b"\n", b"\r\n"), "Git-LFS pointer, .*: run git lfs pull"),
        (POINTER.replace(b"git-lfs", b"hawser"), "Git-LFS pointer, .*: run git lfs pull"),
        (POINTER.replace(b"https://git-lfs.github.com/spec/v1", b"http://git-media.io/v/2"), "Git-LFS pointer"),
        (b"/annex/objects/SHA256E-s12345--0123abc.txt\n", "git-annex pointer, .*: run git annex get"),
        (b"\xef\xbb\xbf/annex/objects/MD5-s1--0\r\n", "git-annex pointer, .*: run git annex get"),
        (b"/annex/objects/MD5-s1--0", "git-annex pointer, .*: run git annex get"),
        (b"", "git-annex pointer, .*: run git annex get"),  # a link
    ],
)
@pytest.mark.parametrize("given", ["data/a.jsonl.gz", "data", "data/*"])
def test_pointers_of_all_kinds_are_known(tmp_path: Path, content: bytes, said: str, given: str) -> None:
    path = tmp_path / "data" / "a.jsonl.gz"
    path.parent.mkdir()
    if content:
        path.write_bytes(content)
    else:
        path.symlink_to("../.git/annex/objects/Xx/Yy/MD5-s1--0/MD5-s1--0")
    with pytest.raises(ValueError, match=f"^data.train: {path} is a {said}"):
        source_identity(config_of(tmp_path, given), "train")


def test_text_about_pointers_is_text(tmp_path: Path) -> None:
    lines = [
        "/annex/objects/ is where git-annex keeps them",
        "version https://git-lfs.github.com/spec/v1 is a first line",
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert texts_of(config_of(tmp_path, "a.txt")) == lines


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.jsonl.gz", "news.en-00001-of-00100"])
def test_pointers_of_git_lfs_are_no_text(tmp_path: Path, bpe: Tokenizer, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    said = rf"{name} is a Git-LFS pointer, not the file itself: run git lfs pull"
    with pytest.raises(ValueError, match=f"data.train: .*{said}"):
        source_identity(config_of(tmp_path, name), "train")
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name, bpe, 8)
    with pytest.raises(ValueError, match=said):
        list(TextFile(tmp_path / name).lines())
    refuse_lfs_pointers(tmp_path / "missing")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json"])
def test_pointers_of_git_lfs_are_no_tokenizer(tmp_path: Path, bpe: Tokenizer, name: str) -> None:
    bpe.save(tmp_path / "bpe")
    if name == "vocab.json":
        (tmp_path / "bpe" / "tokenizer.json").unlink()
        (tmp_path / "bpe" / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "bpe" / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=rf"{name} is a Git-LFS pointer, not the file itself: run git lfs pull"):
        load_tokenizer(str(tmp_path / "bpe"))
