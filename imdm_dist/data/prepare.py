"""From settings to token files: whatever is missing is built once, whole or not at all.

A folder of data.cache is named by a hash of all that shapes its content (settings, identity of the
text, tokenizer), so changed text or settings lead to another folder, and an existing one is right.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from imdm_dist.config.data import DataConfig
from imdm_dist.data import synthetic
from imdm_dist.data.bpe import LONGEST_WORD, long_word
from imdm_dist.data.corpus import Split, data_root, say_repeated, source_identity
from imdm_dist.data.packing import pack
from imdm_dist.data.split_documents import SplitDocuments, first_look, read_documents, text_batches
from imdm_dist.data.token_file import TokenFile
from imdm_dist.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from imdm_dist.files import hash_json, make_folder, publish_dir, write_json
from imdm_dist.signals import interrupted, leaving_at_signals, noted

_TEXTS = ("source", "text_field", "document", "valid_share", "packing", "detokenizer")
"""Settings that shape the texts, beside the files or data set themselves."""
_FORMAT = 3
"""Raised when the code comes to make other rows from the same settings."""
_BPE_BATCHES = 256
"""A BPE is trained on the first gigabyte of text: more does not change it, and would not fit in memory."""
_NAMED = 3
"""Places that are named of one kind; the rest are counted."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Packed data and the tokenizer that made it."""

    train: TokenFile
    """Training rows."""
    valid: TokenFile
    """Validation rows."""
    tokenizer: Tokenizer | None
    """None for the synthetic language, which has no text."""


class NotPreparedError(ValueError):
    """Data that would have to be built first."""


def build_once(
    folder: Path, what: str, build: Callable[[Path], None], may_build: bool = True, parts: Sequence[str] = ()
) -> Path:
    """Make `folder` by `build(temporary folder)` unless it exists; of processes that start together, one builds.

    Where one of its `parts` is gone, as after the advice to remove a damaged token file, all of it is made again.

    A build that fails or is killed leaves no `folder`, and the next one starts afresh. A signal to stop ends it, and
    ends waiting for another's.

    Raises:
        NotPreparedError: it does not exist, and `may_build` is false.
        SystemExit: the process was asked to stop (see `leaving_at_signals`).
    """

    def there() -> bool:
        return folder.exists() and all((folder / part).exists() for part in parts)

    if there():
        return folder
    if not may_build:
        raise NotPreparedError(f"not made yet: {what}; run imdm_dist prepare-data")
    try:
        with leaving_at_signals():
            _build(folder, what, build, there)
    except SystemExit:
        print(f"stopped ({noted()}) before {what} stood: run the same command to go on", file=sys.stderr)
        raise
    return folder


def _build(folder: Path, what: str, build: Callable[[Path], None], there: Callable[[], bool]) -> None:
    make_folder(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another process that builds {what}", file=sys.stderr)
        lock.acquire()
    try:
        if not there():
            # Only the holder of the lock makes these, so what is here was left by one that died.
            for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
                shutil.rmtree(leftover)
            print(f"building {what} in {folder}", file=sys.stderr)
            begun = f"{what}: not finished, will be built from the beginning"
            with interrupted(lambda: begun), publish_dir(folder) as aside:
                build(aside)
    finally:
        lock.release()


def _bpe(config: DataConfig, cache: Path, may_build: bool, look: Callable[[], None]) -> Tokenizer:
    settings = {
        "format": _FORMAT,
        "text": source_identity(config, "train"),
        **{key: getattr(config, key) for key in (*_TEXTS, "bpe_size")},
    }

    def build(aside: Path) -> None:
        look()
        texts = read_documents(config, "train")
        long_words = _LongWords(texts.name)
        batches = text_batches(texts, config, "BPE: reading", long_words.look)
        train_bpe(islice(batches, _BPE_BATCHES), config.bpe_size, aside)
        long_words.say()
        write_json(aside / "settings.json", settings)

    name = f"bpe-{hash_json(settings)[:16]}"
    folder = build_once(cache / name, f"a BPE of {config.bpe_size} entries", build, may_build)
    return load_tokenizer(str(folder.resolve()))


class _LongWords:
    """Says where words are that a BPE cannot be trained on as they are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found = 0

    def look(self, text: str, place: str) -> None:
        """Say so if this text has one, for the first few."""
        if sign := long_word(text):
            self.found += 1
            if self.found <= _NAMED:
                tqdm.write(
                    f"{self.name}: {place}: a word of {LONGEST_WORD:,} characters or more (of {sign}); the BPE is "
                    "trained on pieces of it",
                    file=sys.stderr,
                )

    def say(self) -> None:
        """Say how many more there were."""
        if self.found > _NAMED:
            print(f"{self.name}: such words in {self.found - _NAMED:,} more documents", file=sys.stderr)


def _packed(
    config: DataConfig, cache: Path, tokenizer: Tokenizer, may_build: bool, look: Callable[[], None]
) -> Dataset:
    identity: dict[Split, list[Any]] = {split: source_identity(config, split) for split in get_args(Split)}
    settings = {
        "format": _FORMAT,
        "tokenizer": tokenizer.fingerprint,
        **{key: getattr(config, key) for key in (*_TEXTS, "separator", "length")},
    }

    def build(aside: Path) -> None:
        look()
        say_repeated(config, identity)
        for split in get_args(Split):
            texts = read_documents(config, split)
            rows = pack(text_batches(texts, config, split), tokenizer, config.length, config.separator)
            TokenFile.write(
                aside / split,
                _any_rows(rows, texts, config.length),
                length=config.length,
                vocab_size=tokenizer.vocab_size,
                mask_id=tokenizer.mask_id,
                bos_id=tokenizer.bos_id,
                eos_id=tokenizer.eos_id if config.separator == "end" else tokenizer.bos_id,
                settings={"tokenizer": tokenizer.fingerprint, "split": split},
                origin=settings | {"text": identity[split]},
            )
            texts.say()

    name = f"{config.source}-{config.length}-{hash_json([settings, identity])[:16]}"
    folder = build_once(
        cache / name, f"rows of {config.length} tokens from {config.source} text", build, may_build, get_args(Split)
    )
    return Dataset(TokenFile.open(folder / "train"), TokenFile.open(folder / "valid"), tokenizer)


def _any_rows(chunks: Iterable[np.ndarray], texts: SplitDocuments, length: int) -> Iterator[np.ndarray]:
    """The chunks of rows as they are; ValueError if there are none."""
    is_empty = True
    for chunk_KL in chunks:
        is_empty = False
        yield chunk_KL
    if is_empty:
        raise texts.too_little(length)


def _synthetic(cache: Path, may_build: bool) -> Dataset:
    settings = {"format": _FORMAT, "source": "synthetic"}

    def build(aside: Path) -> None:
        shape: dict[str, Any] = {"length": 2, "vocab_size": 3, "mask_id": synthetic.MASK_ID}
        for split in get_args(Split):
            TokenFile.write(aside / split, synthetic.ROWS, **shape, bos_id=None, eos_id=None, settings=settings)

    folder = build_once(
        cache / f"synthetic-2-{hash_json(settings)[:16]}", "the synthetic rows", build, may_build, get_args(Split)
    )
    return Dataset(TokenFile.open(folder / "train"), TokenFile.open(folder / "valid"), None)


def prepare(config: DataConfig, may_build: bool = True) -> Dataset:
    """Open the data of these settings, building what is missing (said on stderr, with progress).

    Safe in any number of processes on machines that share data.cache. With source=synthetic only
    data.cache is read: the rows are 00 and 11 and have length 2.

    Raises:
        ValueError: a file or tokenizer is missing or wrong, the length leaves no room for text, or
            a finished token file is damaged.
        NotPreparedError: something is missing, and `may_build` is false.
    """
    cache = Path(config.cache)
    if not may_build and not cache.exists():  # before every byte of the text is hashed for nothing
        raise NotPreparedError(f"not made yet: all of {cache}; run imdm_dist prepare-data")
    if config.source == "synthetic":
        return _synthetic(cache, may_build)
    if config.length < 3:
        raise ValueError(f"data.length is {config.length}: a row of text needs begin, text and end, so set 3 or more")
    look = lru_cache(partial(first_look, config))  # once, before whatever is built first
    if config.tokenizer == "embedded":
        tokenizer = _bpe(config, cache, may_build, look)
    else:
        tokenizer = load_tokenizer(config.tokenizer, data_root(config)[0])
    return _packed(config, cache, tokenizer, may_build, look)
