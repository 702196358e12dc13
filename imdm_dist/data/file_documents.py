"""The documents of one file: lines, paragraphs or the whole of a text file, JSON objects, rows of parquet.

Only the field that holds the text is looked at, so that other fields may differ from file to file and row to row. A
name such as doc.text is the field of that name or, failing that, field text within object doc.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from imdm_dist.data.text_file import TextFile, first_line, no_utf8

Unit = Literal["file", "paragraph", "line"]
_ROWS = 1024
_BLANKS = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
_HEAD = 2000
"""Lines that tell whether a file is hard-wrapped."""
_WRAPPED_SHARE = 0.3
"""Share of the lines that go on in the next one from which a file counts as hard-wrapped."""
_WRAPPED_WIDTHS = (40, 120)
_WRAPPED_SPREAD = 1.3
"""Lines of one width: of twenty, the longest but one is at most this much longer than the middle one."""


def texts(file: TextFile, unit: Unit) -> Iterator[tuple[int, str]]:
    """The documents of a text file, blank lines included if they are lines, each with the number of its first line.

    Raises:
        ValueError: as `TextFile.lines`, or the file holds JSON.
    """
    begin: str | None = ""  # of JSON, as far as it may be some
    first, start, kept = 0, 1, list[str]()
    for number, line in file.lines():
        if begin is not None and line.strip():
            first = number if not begin else first
            begin, before = f"{begin}\n{line}", begin
            if _holds_objects(begin) or (before and "{" in begin and _is_broken_off(begin)):
                raise ValueError(
                    f"{file.path}, line {first}: a JSON object, in a file whose name is that of plain text: give it a "
                    "name or a link that ends in .jsonl"
                )
            if before or not _is_broken_off(line):
                begin = None
        if unit == "line":
            yield number, line
        elif unit == "paragraph" and not line.strip():
            if kept:
                yield start, "\n".join(kept)
            kept = []
        else:
            start = start if kept else number
            kept.append(line)
    if kept:
        yield start, "\n".join(kept)


def wrapped_at(file: TextFile) -> int:
    """The width at which a text file looks hard-wrapped, in characters; 0 if it does not.

    Many of its first lines go on in the next one, which begins with a small letter, and most have about one length.
    """
    lines = [line.strip() for _, line in islice(file.lines(), _HEAD)]
    widths = sorted(len(line) for line in lines if line)
    if len(widths) < 2:
        return 0
    middle, wide = widths[len(widths) // 2], widths[len(widths) * 19 // 20]
    going_on = sum(above[-1:] not in tuple(".?!") and below[:1].islower() for above, below in pairwise(lines) if above)
    one_width = _WRAPPED_WIDTHS[0] <= middle and wide <= min(_WRAPPED_WIDTHS[1], _WRAPPED_SPREAD * middle)
    return wide if one_width and going_on >= _WRAPPED_SHARE * len(widths) else 0


def objects(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, of an array, or objects over several lines; each with its line.

    Raises:
        ValueError: as `TextFile.lines`, or a line is no JSON or no object.
    """
    lines = file.lines()
    is_first = True
    for number, line in lines:
        if not line.strip():
            continue
        if (is_first or line.strip() in ("{", "[")) and _is_broken_off(line):
            text = "\n".join(chain([line], (rest for _, rest in lines)))
        else:
            text = line
        is_first = False
        yield from _objects_in(file, number, text, several=text is not line)


def _objects_in(file: TextFile, number: int, text: str, several: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a text that begins in line `number`; if there may be `several`, one behind the other."""
    decoder, at = json.JSONDecoder(), 0
    while True:
        try:
            if several:
                value, end = decoder.raw_decode(text, _BLANKS.match(text, at).end())  # type: ignore[union-attr]
                end = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
            else:
                value, end = json.loads(text), len(text)
            if _SURROGATE.search(text, at, end):
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file.path}, line {number + text.count(chr(10), at, error.pos)}: no JSON ({error.msg}): correct that "
                "line"
            ) from None
        except (ValueError, RecursionError) as error:
            cause = "half of a surrogate pair" if isinstance(error, UnicodeEncodeError) else first_line(error)
            raise ValueError(f"{file.path}, line {number}: no text in its JSON ({cause}): correct that line") from None
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict):
                raise ValueError(
                    f"{file.path}, line {number}: {_what(one)} where a JSON object is due: put the text into a field "
                    "of an object"
                )
            yield number, one
        number += text.count("\n", at, end)
        at = end
        if at == len(text):
            return


def _is_broken_off(line: str) -> bool:
    """Whether a line is an object or array that may go on in the next one."""
    if not line.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.rstrip())
    except (ValueError, RecursionError):
        pass
    return False


def rows(file: TextFile, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a parquet file as objects that hold one field, each with its number from 1.

    Raises:
        ValueError: as `TextFile.refuse_other_kinds`, or the file cannot be read as parquet, or the field is no text.
    """
    file.refuse_other_kinds()
    try:
        with _seekable(file) as raw:
            if raw is not None:
                yield from _rows(file, pq.ParquetFile(raw), field)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, such as a full disk
            raise
        raise ValueError(f"{file.path} cannot be read as parquet ({first_line(error)}): repair or replace it") from None


def _rows(file: TextFile, opened: pq.ParquetFile, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    types = _columns(opened.schema_arrow)
    strings = [name for name, kind in types.items() if _is_text(kind) and not pa.types.is_null(kind)]
    if field not in types:
        for number in range(opened.metadata.num_rows):
            yield number + 1, dict.fromkeys(strings, "")
        return
    if not _is_text(types[field]):
        raise ValueError(f"{file.path}: field {field} is no text but {types[field]}{instead(strings)}")
    size, done = file.path.stat().st_size, 0
    for batch in opened.iter_batches(batch_size=_ROWS, columns=[field]):
        try:
            some = batch.to_pylist()
        except UnicodeDecodeError:
            raise _bad_row(file, batch, done) from None
        for row in some:
            done += 1
            yield done, row
        file.position = size * done // opened.metadata.num_rows


def _bad_row(file: TextFile, batch: pa.RecordBatch, before: int) -> ValueError:
    for number in range(batch.num_rows):
        try:
            batch.slice(number, 1).to_pylist()
        except UnicodeDecodeError as error:
            return ValueError(f"{file.path}, row {before + number + 1}: {no_utf8(error)}: repair or replace the file")
    raise AssertionError("each of the rows can be read, and all together cannot")


@contextmanager
def _seekable(file: TextFile) -> Iterator[IO[bytes] | None]:
    """The file, decompressed if it must be; None if it has no bytes."""
    with file.opened() as (raw, content):
        if file.path.stat().st_size == 0:
            yield None
        elif content is raw:
            yield raw
        else:
            with tempfile.TemporaryFile() as whole:
                shutil.copyfileobj(content, whole)
                yield whole


def _columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Types of the columns by name, those within structs by dotted name as well."""
    types: dict[str, pa.DataType] = {}

    def add(prefix: str, fields: Any) -> None:
        for one in fields:
            types.setdefault(prefix + one.name, one.type)
            if pa.types.is_struct(one.type):
                add(f"{prefix}{one.name}.", [one.type.field(at) for at in range(one.type.num_fields)])

    add("", schema)
    return types


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(check(kind) for check in _STRINGS)


def value_of(row: dict[str, Any], field: str) -> Any:
    """The value of a field of an object, by its name or, within objects, by dotted names.

    Raises:
        KeyError: it has no such field.
    """
    if field in row:
        return row[field]
    first, _, rest = field.partition(".")
    if not rest or not isinstance(row.get(first), dict):
        raise KeyError(field)
    return value_of(row[first], rest)


def field_names(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The fields of an object that may hold text, those within objects by dotted names."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from field_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def instead(fields: Iterable[str]) -> str:
    """The end of a message about a field that holds no text: which do."""
    if names := ", ".join(fields):
        return f": set data.text_field to one of {names}"
    return ", and there is no field of strings: give files with text"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _holds_objects(line: str) -> bool:
    """Whether a line is a JSON object, or an array of them."""
    if not line.lstrip().startswith(("{", "[")) or not _is_json(line):
        return False
    value = json.loads(line)
    return isinstance(value, dict) or (value != [] and all(isinstance(one, dict) for one in value))


def _what(value: Any) -> str:
    names = {str: "a string", bool: "true or false", type(None): "null", list: "an array"}
    return names.get(type(value), "a number")
