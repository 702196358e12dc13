"""Where text comes from: local files, hub data sets or the embedded corpus, read by the `datasets` library."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from imdm_dist.config.data import DataConfig
from imdm_dist.data import detokenize
from imdm_dist.data.embedded import embedded_digest, read_embedded

if TYPE_CHECKING:  # importing datasets takes seconds, which reading finished token files does not need
    from datasets import Dataset

Split = Literal["train", "valid"]
_HUB_SPLITS: dict[Split, str] = {"train": "train", "valid": "validation"}
_KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_EDGE_BYTES = 2**20
_BATCH_CHARACTERS = 2**22


def data_root(config: DataConfig) -> tuple[Path, str]:
    """The folder that relative names start from, and where it was set."""
    if config.root:
        return Path(config.root), "data.root"
    if os.environ.get("IMDM_DATA"):
        return Path(os.environ["IMDM_DATA"]), "IMDM_DATA"
    return Path.cwd(), "the working folder, as neither data.root nor IMDM_DATA is set"


def resolve_files(config: DataConfig, split: Split) -> list[Path]:
    """The files of a split, in the order given; those of one glob by name.

    Raises:
        ValueError: a name matches no file, or one that is empty.
    """
    root, origin = data_root(config)
    files: list[Path] = []
    for given in getattr(config, split):
        given = os.path.expanduser(given)
        matches = [given] if (root / given).is_file() else sorted(glob.glob(given, root_dir=root, recursive=True))
        found = [root / one for one in matches if (root / one).is_file()]
        if not found:
            raise ValueError(
                f"data.{split} names {given}, which is no file under {root} ({origin}): "
                "correct the name, or set data.root or IMDM_DATA to the folder that holds it"
            )
        empty = [one.name for one in found if one.stat().st_size == 0]
        if empty:
            raise ValueError(f"data.{split}: {', '.join(empty)} is empty: fill it or leave it out")
        files += found
    return files


def _hub_split(config: DataConfig, split: Split) -> str:
    given = getattr(config, split)
    if len(given) > 1:
        raise ValueError(f"data.{split} names {len(given)} hub splits: name one, e.g. data.{split}=[train[:-100000]]")
    return given[0] if given else _HUB_SPLITS[split]


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return _KINDS.get(name.suffix, "text")


def _file_identity(path: Path) -> list[Any]:
    size = path.stat().st_size
    with open(path, "rb") as handle:
        edges = hashlib.sha256(handle.read(_EDGE_BYTES))
        handle.seek(max(0, size - _EDGE_BYTES))
        edges.update(handle.read(_EDGE_BYTES))
    return [path.name, size, edges.hexdigest()]


def source_identity(config: DataConfig, split: Split) -> list[Any]:
    """What tells one text from another, as JSON values without any folder of this machine.

    For files: name, size and a hash of the first and last mebibyte; for the embedded English: a hash of it.
    """
    if config.source == "files":
        return [_file_identity(path) for path in resolve_files(config, split)]
    if config.source == "hub":
        return [config.name, _hub_split(config, split)]
    return ["embedded", embedded_digest(split, config.cache)]


def read_texts(config: DataConfig, split: Split, cache_dir: Path | None = None) -> Dataset:
    """Read the documents of a split.

    Args:
        config: source (not synthetic), files or names, text field.
        split: train or valid.
        cache_dir: where `datasets` keeps what it converts; by default a folder of data.cache.

    Returns:
        A data set with the one column `text`, a document a row: a line of a text file (blank ones
        included), an object of a JSON file, a row of a parquet file.

    Raises:
        ValueError: a file is missing or cannot be read, or has no such text field.
    """
    import datasets

    if config.source == "embedded":
        return datasets.Dataset.from_dict({"text": read_embedded(split)})
    where = str(cache_dir or Path(config.cache) / "datasets")
    if config.source == "hub":
        name = _hub_split(config, split)
        try:
            return _text_column(datasets.load_dataset(config.name, split=name, cache_dir=where), config, config.name)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            said = _first_line(_root_cause(error))
            raise ValueError(
                f"data.name={config.name} with split {name} does not load ({said}): correct the name, "
                "or use data.source=files without a network"
            ) from None
    assert config.source == "files"
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs of an error is in the error too
    tables = []
    for kind, group in groupby(resolve_files(config, split), key=_kind):
        files = list(group)
        label = ", ".join(path.name for path in files)
        try:
            data_files = [glob.escape(str(path.resolve())) for path in files]
            table = datasets.load_dataset(kind, data_files=data_files, split="train", cache_dir=where)
        except (ValueError, EOFError, OSError, datasets.exceptions.DatasetsError) as error:
            cause = _root_cause(error)
            if isinstance(cause, OSError) and cause.errno is not None:  # the machine's fault, such as a full disk
                raise cause from None
            raise ValueError(
                f"data.{split}: {label} cannot be read as {kind} ({_first_line(cause)}): repair or replace it"
            ) from None
        tables.append(_text_column(table, config, label) if kind != "text" else table)
    return datasets.concatenate_datasets(tables)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _text_column(table: Dataset, config: DataConfig, label: str) -> Dataset:
    import datasets

    field = config.text_field
    if field not in table.column_names:
        raise ValueError(f"{label} has no field {field}: set data.text_field to one of {', '.join(table.column_names)}")
    table = table.select_columns([field])
    if field != "text":
        table = table.rename_column(field, "text")
    if getattr(table.features["text"], "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"{label}: field {field} is no text: set data.text_field to a field of strings")
    return table.cast(datasets.Features({"text": datasets.Value("string")}))


def text_batches(table: Dataset, config: DataConfig, label: str) -> Iterator[list[str]]:
    """The texts to tokenize, a few megabytes at a time, with a progress bar on stderr.

    A text is a document; with data.packing=sentence, each line of one. Empty ones are left out.
    """
    batch: list[str] = []
    characters = 0
    with tqdm(total=len(table), desc=label, unit=" docs", unit_scale=True) as bar:
        for some in table.iter(batch_size=64):
            for document in filter(None, some["text"]):
                texts = document.split("\n") if config.packing == "sentence" else [document]
                texts = [text for text in texts if text.strip()]
                batch += map(detokenize.lm1b, texts) if config.detokenizer == "lm1b" else texts
                characters += len(document)
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
            bar.update(len(some["text"]))
    yield batch
