"""Text as it lies in a file: what its name says it is, and its lines, whatever it is compressed with.

Text is UTF-8, and a byte order mark is no part of it. Wherever text is read, lines end at newline, carriage return, or
both in this order, and at no other sign of Unicode.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from imdm_dist.files import refuse_lfs_pointers

Kind = Literal["text", "json", "parquet"]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".raw": "text",
    ".tokens": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
"""What a file is, by the ending of its name in lower case, that of its compression taken off."""
_OPEN: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: pa.CompressedInputStream(file, "zstd"),
}
_ENDING = re.compile(r"\.[a-z][a-z0-9_]*")
"""What counts as an ending: `news.en-00001-of-00100` has none, `text.csv` has one."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_LINE_END_BYTES = re.compile(rb"\r\n|\r|\n")
_MARK = "\ufeff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LINES = 1024
"""Lines from one look at the position to the next."""


def _endings(path: Path) -> tuple[str, str]:
    """The endings of a file's name in lower case, its own and that of its compression; empty where it has none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in _OPEN else ""
    ending = suffixes[-1] if suffixes and _ENDING.fullmatch(suffixes[-1]) else ""
    return ending, packed


def has_known_ending(path: Path) -> bool:
    """Whether a file's name ends as those of text do."""
    return _endings(path)[0] in KINDS


def kind_of(path: Path) -> Kind:
    """What a file is by its name; one whose name has no ending is plain text.

    Raises:
        ValueError: it ends in something unknown.
    """
    ending, _ = _endings(path)
    if ending and ending not in KINDS:
        raise ValueError(
            f"{path} ends in {ending}, which is not read: give {', '.join(KINDS)}, also with {', '.join(_OPEN)} behind "
            "it; plain text of another name needs a link that ends in .txt"
        )
    return KINDS.get(ending, "text")


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    return _LINE_END.split(text)


def drop_mark(text: str) -> str:
    """The text without a byte order mark in front."""
    return text.removeprefix(_MARK)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def no_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are no UTF-8, and the remedy."""
    return f"byte {error.object[error.start]:#04x} is no UTF-8: convert the text, e.g. with iconv -f LATIN1 -t UTF-8"


class TextFile:
    """A file that holds text, and how far it has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        """Bytes of the file that have been read, about."""

    @contextmanager
    def opened(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """The file, and what it decompresses to.

        Raises:
            ValueError: it is a Git-LFS pointer, or reading it finds that it cannot be decompressed.
        """
        refuse_lfs_pointers(self.path)
        _, packed = _endings(self.path)
        with open(self.path, "rb") as raw:
            empty = self.path.stat().st_size == 0
            try:
                yield raw, _OPEN[packed](raw) if packed and not empty else raw
            except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                if not packed or (isinstance(error, OSError) and error.errno is not None):
                    raise
                raise ValueError(
                    f"{self.path} cannot be decompressed as {packed} ({first_line(error)}): repair or replace it"
                ) from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines with their numbers from 1, without their ends and byte order marks.

        Raises:
            ValueError: as `opened`, or a line is no UTF-8.
        """
        try:
            with self.opened() as (raw, file):
                text = io.TextIOWrapper(file, encoding="utf-8")  # which reads all three ends of lines as \n
                for number, line in enumerate(text, 1):
                    if number % _LINES == 0:
                        self.position = raw.tell()
                    yield number, drop_mark(line.removesuffix("\n"))
                self.position = raw.tell()
        except UnicodeDecodeError:
            raise self._no_utf8() from None

    def _no_utf8(self) -> ValueError:
        """The error that names the first line that is no UTF-8."""
        number = 1
        with self.opened() as (_, file):
            for line in file:
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    number += len(_LINE_END_BYTES.findall(line[: error.start]))
                    if number == 1 and line.startswith(_UTF16):
                        return ValueError(f"{self.path} is UTF-16: convert it, e.g. with iconv -f UTF-16 -t UTF-8")
                    return ValueError(f"{self.path}, line {number}: {no_utf8(error)}")
                number += len(_LINE_END_BYTES.findall(line))
        raise AssertionError(f"{self.path} changes while it is read")
