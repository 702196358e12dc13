"""The documents of a split, and the texts in them, a few megabytes at a time."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from imdm_dist.config.data import DataConfig
from imdm_dist.data import detokenize, file_documents
from imdm_dist.data.corpus import Split, hub_split, names_of, resolve_files, shown, some_of
from imdm_dist.data.embedded import read_embedded
from imdm_dist.data.text_file import TextFile, drop_mark, first_line, kind_of, split_lines

_BATCH_CHARACTERS = 2**22
_BATCH_ROWS = 64
_NAMED = 3
"""Files without text that are named; the rest are counted."""


@dataclass
class SplitDocuments:
    """The documents of a split, read as they are asked for, with where each stands and what holds no text.

    Iterating gives a string for each document, in order. Blank lines of a text file are given too, as empty strings
    are: what uses the documents leaves them out. Rows without text are counted, and given as empty strings.
    """

    rows: Callable[[SplitDocuments], Iterator[str | None]]
    """Gives the documents and sets `place` and `position` as it goes."""
    total: int
    """What `position` will be at the end."""
    unit: str
    """Of position and total: docs, or B for bytes."""
    name: str
    """Setting that names the split, for messages."""
    origin: str
    """The same with the files or the data set."""
    share: float = 0.0
    """Share of the documents that are for validation."""
    valid: bool = False
    """Whether to give those, or the others."""
    label: str = ""
    """File or data set of the last document."""
    place: str = ""
    """File and line, or row, of the last document."""
    position: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by label."""
    without: Counter[str] = field(default_factory=Counter)
    """Rows without text by label: null, missing or blank."""
    has_text: bool = False
    """Whether a document held text, on either side of the share."""
    zeros: int = 0
    """Documents with NUL characters."""
    first_zero: str = ""
    """Place of the first of them."""

    def __iter__(self) -> Iterator[str]:
        for text in self.rows(self):
            self.counts[self.label] += 1
            if text is None:
                self.without[self.label] += 1
                yield ""
                continue
            text = drop_mark(text)
            if "\0" in text:
                self.zeros += 1
                self.first_zero = self.first_zero or self.place
            self.has_text = self.has_text or bool(text.strip())
            if self.share and text.strip() and _is_valid(text, self.share) != self.valid:
                continue
            yield text
        self.position = self.total

    def too_little(self, length: int) -> ValueError:
        """The error for a split that is read to its end and fills no row of `length` tokens."""
        if not self.has_text:
            return ValueError(f"{self.origin} holds no text: give more, or other files")
        if self.share:
            side, remedy = ("validation", "raise") if self.valid else ("training", "lower")
            return ValueError(
                f"data.valid_share={self.share} leaves too little of {self.origin} for {side}, less than a row of "
                f"data.length={length}: {remedy} data.valid_share, or give more text"
            )
        return ValueError(
            f"{self.origin}: the text is shorter than a row of data.length={length}: give more or lower it"
        )

    def say(self) -> None:
        """Say on stderr, when all is read, what holds no text and what holds NUL characters."""
        for label, count in self.without.most_common(_NAMED):
            rows = f"{count:,} of {self.counts[label]:,} rows of {label}"
            print(f"{self.name}: left out {rows} without text (null, missing or blank)", file=sys.stderr)
        if len(self.without) > _NAMED:
            rest = sum(count for _, count in self.without.most_common()[_NAMED:])
            print(f"{self.name}: left out {rest:,} rows of {len(self.without) - _NAMED} more files", file=sys.stderr)
        if self.zeros:
            more = f" and {self.zeros - 1:,} more documents" if self.zeros > 1 else ""
            print(f"{self.name}: NUL characters in {self.first_zero}{more}: is the file whole?", file=sys.stderr)


def _is_valid(text: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8]) < share * 2**64


def read_documents(config: DataConfig, split: Split, cache_dir: Path | None = None) -> SplitDocuments:
    """The documents of a split.

    Args:
        config: source (not synthetic), files or names, text field, what a document is.
        split: train or valid.
        cache_dir: where `datasets` keeps what it downloads; by default a folder of data.cache.

    Returns:
        Its documents: lines (blank ones included), paragraphs or the whole of a text file, objects of a JSON file, rows
        of a parquet file. Iterating raises ValueError for a file that cannot be read, and where no row has the field.

    Raises:
        ValueError: a file is missing or no text, or a hub data set does not load or has no such field.
    """
    setting = names_of(config, split)[1]
    share, is_valid = config.valid_share, split == "valid"
    if config.source == "embedded":
        corpus = read_embedded(split)
        label = "the embedded English"
        return SplitDocuments(lambda texts: _counted(texts, corpus, label), len(corpus), "docs", setting, label)
    if config.source == "hub":
        table = _hub_table(config, split, str(cache_dir or Path(config.cache) / "datasets"))
        column = (one for some in table.iter(batch_size=_BATCH_ROWS) for one in some["text"])
        origin = f"{setting} ({hub_split(config, split)} of {config.name})"
        return SplitDocuments(
            lambda texts: _counted(texts, column, config.name), len(table), "docs", setting, origin, share, is_valid
        )
    assert config.source == "files"
    files = resolve_files(config, split)
    size = sum(path.stat().st_size for path in files)
    origin = f"{setting} ({some_of([shown(config, path) for path in files])})"
    return SplitDocuments(
        lambda texts: _read_files(texts, files, config, setting), size, "B", setting, origin, share, is_valid
    )


def _counted(texts: SplitDocuments, some: Iterable[str | None], label: str) -> Iterator[str | None]:
    texts.label = label
    for number, text in enumerate(some, 1):
        texts.place, texts.position = f"{label}, row {number}", number
        yield text if text and text.strip() else None


def _read_files(texts: SplitDocuments, files: Sequence[Path], config: DataConfig, setting: str) -> Iterator[str | None]:
    """The documents of files.

    Raises:
        ValueError: a file cannot be read, or no row of any file has the field.
    """
    before, found, lacking, offered = 0, False, "", dict[str, None]()
    for path in files:
        file, kind = TextFile(path), kind_of(path)
        texts.label = shown(config, path)
        word = "row" if kind == "parquet" else "line"
        try:
            for number, row in _rows(file, kind, config):
                texts.place, texts.position = f"{path}, {word} {number}", before + file.position
                if isinstance(row, str):
                    found = True
                    yield row
                    continue
                try:
                    value = file_documents.value_of(row, config.text_field)
                except KeyError:
                    if not found:
                        lacking = lacking or texts.label
                        offered |= dict.fromkeys(_strings(row))
                    yield None
                    continue
                found = True
                if value is not None and not isinstance(value, str):
                    raise ValueError(
                        f"{texts.place}: field {config.text_field} is no text{file_documents.instead(_strings(row))}"
                    )
                yield value if value and value.strip() else None
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
        before += path.stat().st_size
    if lacking and not found:
        raise ValueError(
            f"{setting}: {some_of([shown(config, path) for path in files])} has no field {config.text_field}"
            f"{file_documents.instead(offered)}"
        )


def _strings(row: dict[str, Any]) -> list[str]:
    """The fields of an object that data.text_field could name."""
    return [name for name in file_documents.field_names(row) if isinstance(file_documents.value_of(row, name), str)]


def _rows(file: TextFile, kind: str, config: DataConfig) -> Iterator[tuple[int, Any]]:
    if kind == "text":
        return file_documents.texts(file, config.document)
    return file_documents.objects(file) if kind == "json" else file_documents.rows(file, config.text_field)


def first_look(config: DataConfig) -> None:
    """What can be told of the text before a BPE is trained on it; lines that look hard-wrapped are said on stderr.

    Raises:
        ValueError: as `read_documents`, or a split holds no text.
    """
    for split in get_args(Split):
        texts = read_documents(config, split)
        for text in tqdm(texts, desc=f"{texts.name}: looking for text", unit=" documents", delay=1):
            if text.strip():
                break
        else:
            raise texts.too_little(config.length)
    if config.source == "files" and config.document == "line":
        files = chain.from_iterable(resolve_files(config, split) for split in get_args(Split))
        any(_warn_of_wrapping(TextFile(path), config) for path in files if kind_of(path) == "text")


def _warn_of_wrapping(file: TextFile, config: DataConfig) -> bool:
    try:
        width = file_documents.wrapped_at(file)
    except ValueError:  # which is said, with its place, when all of it is read
        return False
    if width:
        packing = " and data.packing=document" if config.packing == "sentence" else ""
        print(
            f"{file.path} looks hard-wrapped at {width} characters, and each of its lines is a document: "
            f"set data.document=paragraph or file{packing}, unless that is meant",
            file=sys.stderr,
        )
    return width > 0


def _hub_table(config: DataConfig, split: Split, where: str) -> Any:
    import datasets  # takes seconds, which local files do not need

    name = hub_split(config, split)
    try:
        table = datasets.load_dataset(config.name, split=name, cache_dir=where)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        while error.__cause__ is not None:
            error = error.__cause__
        raise ValueError(
            f"data.name={config.name} with split {name} does not load ({first_line(error)}): correct the name, "
            "or use data.source=files without a network"
        ) from None
    return _text_column(table, config, f"{names_of(config, split)[1]}: {config.name}")


def _text_column(table: Any, config: DataConfig, label: str) -> Any:
    import datasets

    column = config.text_field
    if column not in table.column_names:
        table = table.flatten()  # structs become columns of dotted names
    if column not in table.column_names:
        raise ValueError(f"{label} has no field {column}{file_documents.instead(_text_columns(table))}")
    if column not in _text_columns(table):
        raise ValueError(f"{label}: field {column} is no text{file_documents.instead(_text_columns(table.flatten()))}")
    table = table.select_columns([column])
    if column != "text":
        table = table.rename_column(column, "text")
    return table.cast(datasets.Features({"text": datasets.Value("string")}))


def _text_columns(table: Any) -> list[str]:
    return [name for name, kind in table.features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]


def text_batches(
    texts: SplitDocuments, config: DataConfig, label: str, look: Callable[[str, str], None] | None = None
) -> Iterator[list[str]]:
    """The texts to tokenize, a few megabytes at a time, with a progress bar on stderr.

    A text is a document; with data.packing=sentence, each line of one. Empty ones are left out.

    Args:
        look: called with each document and its place.
    """
    batch: list[str] = []
    characters = 0
    with tqdm(total=texts.total, desc=label, unit=f" {texts.unit}", unit_scale=True) as bar:
        for number, document in enumerate(texts, 1):
            if document:
                if look:
                    look(document, texts.place)
                some = split_lines(document) if config.packing == "sentence" else [document]
                some = [text for text in some if text.strip()]
                batch += map(detokenize.lm1b, some) if config.detokenizer == "lm1b" else some
                characters += len(document)
            if number % _BATCH_ROWS == 0:
                bar.update(texts.position - bar.n)
                if characters >= _BATCH_CHARACTERS:
                    yield batch
                    batch, characters = [], 0
        bar.update(texts.position - bar.n)
    yield batch
