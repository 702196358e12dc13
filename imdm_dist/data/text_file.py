"""Text files: their kind by name and magic bytes, decompression, and lines.

Text is UTF-8, and a byte order mark is no part of it. Wherever text is read, lines end at newline, carriage return, or
both in this order, and at no other sign of Unicode.
"""

from __future__ import annotations

import bz2
import codecs
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
from imdm_dist.problems import first_line

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
_BOM = "\ufeff"
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2aM\x18"),
    ".parquet": re.compile(rb"PAR1[\0-\x08\x0e-\x1f]"),
}
"""How the bytes of a file begin, by the ending that its name should have."""
_FOREIGN = {
    "a zip archive": re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"),
    "a tar archive": re.compile(rb"(?s).{257}ustar"),
    "a 7z archive": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    "a rar archive": re.compile(rb"Rar!\x1a\x07"),
    "compressed with lz4": re.compile(rb"\x04\x22M\x18"),
    "compressed with compress (.Z)": re.compile(rb"\x1f[\x9d\xa0]"),
    "an Arrow file": re.compile(rb"(?s)ARROW1\0\0|\xff\xff\xff\xff.{3}\0\x10\0\0\0"),
    "an ORC file": re.compile(rb"ORC[\0-\x08\x0e-\x1f]"),
    "an Avro file": re.compile(rb"Obj\x01"),
    "a PDF": re.compile(rb"%PDF-"),
    "a file of numpy": re.compile(rb"\x93NUMPY"),
    "an HDF5 file": re.compile(rb"\x89HDF\r\n"),
    "a data base of SQLite": re.compile(rb"SQLite format 3\0"),
}
"""How those begin that are not read."""
_HEAD = 1024
"""Bytes from which it is told what a file is; a multiple of four."""
_ALPHABETS = 4
"""UTF-16 of at most so many blocks of 256 signs is known without its mark."""
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
    return text.removeprefix(_BOM)


def no_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are no UTF-8."""
    return f"byte {error.object[error.start]:#04x} is no UTF-8"


def _wide(head: bytes) -> tuple[str, str] | None:
    """What bytes of two or four to a character are, and their name for iconv; None if they are not."""
    for name in ("UTF-32", "UTF-16"):  # in this order: the mark of UTF-32 begins as that of UTF-16 does
        if head.startswith((f"{_BOM}".encode(f"{name}-LE"), f"{_BOM}".encode(f"{name}-BE"))):
            return name, name
    head = head[: len(head) // 4 * 4]
    if len(head) < 8:
        return None
    for order, bytes_ in (("LE", head), ("BE", head[::-1])):
        if not any(bytes_[3::4]) and max(bytes_[2::4]) <= 0x10 and 0 not in bytes_[::4]:
            return "UTF-32 without a byte order mark", f"UTF-32{order}"
        if bytes_[1::2].count(0) > 1 and len(set(bytes_[1::2])) <= _ALPHABETS and 0 not in bytes_[::2]:
            return "UTF-16 without a byte order mark", f"UTF-16{order}"
    return None


def _may_be_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which lets a character be cut off at the end
    except UnicodeDecodeError:
        return False
    return True


def _ending_of(head: bytes) -> str:
    """The ending that a file which begins so should have; empty if there is no sign of one."""
    return next((ending for ending, magic in _MAGIC.items() if magic.match(head)), "")


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
                    f"{self.path} cannot be decompressed as {packed} ({first_line(error)}): repair or replace it, or "
                    f"take {packed} off its name if it is not compressed"
                ) from None

    def refuse_other_kinds(self) -> None:
        """Check by its first bytes, and those of what it decompresses to, that the file is what its name says.

        Raises:
            ValueError: as `opened`, or it is something else.
        """
        ending, packed = _endings(self.path)
        with open(self.path, "rb") as raw:
            found = _ending_of(raw.read(_HEAD))
        if found != packed and found in _OPEN:
            says = f"its name says {packed}" if packed else "its name does not say so"
            raise ValueError(
                f"{self.path} is compressed as {found} files are, and {says}: give it a name or a link that ends in "
                f"{ending}{found}"
            )
        with self.opened() as (_, content):
            head = content.read(_HEAD)
        found = _ending_of(head)
        if found in _OPEN:
            raise ValueError(f"{self.path} decompresses to a file that is compressed as {found} files are: unpack it")
        if found and ending != found:
            raise ValueError(f"{self.path} is parquet: give it a name or a link that ends in {found}{packed}")
        if found:
            return
        for what, magic in _FOREIGN.items():
            if magic.match(head):
                raise ValueError(f"{self.path} is {what}, which is not read: take the text out of it")
        if wide := _wide(head):
            raise ValueError(f"{self.path} is {wide[0]}: convert it, e.g. with iconv -f {wide[1]} -t UTF-8")
        if ending != ".parquet" and b"\0" in head and not _may_be_utf8(head):
            raise ValueError(f"{self.path} is binary, or UTF-16 without a byte order mark: give it as text in UTF-8")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines with their numbers from 1, without their ends and byte order marks.

        Raises:
            ValueError: as `refuse_other_kinds`, or a line is no UTF-8.
        """
        self.refuse_other_kinds()
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
                    return ValueError(
                        f"{self.path}, line {number}: {no_utf8(error)}: convert the text, e.g. with "
                        "iconv -f LATIN1 -t UTF-8"
                    )
                number += len(_LINE_END_BYTES.findall(line))
        raise AssertionError(f"{self.path} changes while it is read")
