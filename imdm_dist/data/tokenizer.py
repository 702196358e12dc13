"""Tokenizers of the `transformers` library, checked, with the mask that diffusion needs.

A vocabulary with a mask token of its own keeps it (BERT: id 103); else the mask is appended as the
last id (GPT-2: id 50257), the convention of the public MDLM, SDTT and Di4C checkpoints.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from tokenizers import AddedToken
from torch import Tensor

from imdm_dist import hub
from imdm_dist.data.bpe import train_backend
from imdm_dist.files import hash_json, publish_dir, refuse_lfs_pointers, refuse_no_objects
from imdm_dist.problems import first_line

END_OF_TEXT = "<|endoftext|>"
_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
_LONG = 2**23
"""Characters that take many seconds to encode."""
_PROBE = "Some plain words, and the number 42."
# Names that carry these roles in a bare tokenizer.json, which does not say what they are for.
_BOS_NAMES = (END_OF_TEXT, "<s>", "[CLS]")
_EOS_NAMES = (END_OF_TEXT, "</s>", "[SEP]")
_MASK_NAMES = ("[MASK]", "<mask>")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A fast tokenizer and the ids of its special tokens."""

    fast: transformers.PreTrainedTokenizerFast
    """The tokenizer itself, its mask token included."""
    vocab_size: int
    """Number of ids, the mask's included."""
    mask_id: int
    """Id of the mask."""
    bos_id: int
    """Id that begins a row."""
    eos_id: int
    """Id that ends a text and a row."""
    fingerprint: str
    """SHA-256 over vocabulary, merges, special ids and the ids of a probe sentence."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, no special tokens added; the name of one within a text is plain text."""
        backend = self.fast.backend_tokenizer
        # Else a text that says "[MASK]" or "<|endoftext|>" would put the mask or an end token into the data. Set each
        # time: whatever is encoded through `fast` sets it as transformers would have it.
        backend.encode_special_tokens = True
        encode = partial(backend.encode_batch_fast, texts, add_special_tokens=False)
        return [one.ids for one in (_stoppable(encode) if sum(map(len, texts)) > _LONG else encode())]

    def save(self, folder: Path | str) -> None:
        """Publish the tokenizer as a folder that `load_tokenizer` reads back to the same fingerprint."""
        with publish_dir(folder) as aside:
            self.fast.save_pretrained(aside)

    @property
    def clean_up(self) -> bool:
        """Whether `decode` takes out the spaces that WordPiece puts around signs, so that `it ' s` reads `it's`.

        Said to the library, whose default was on in transformers 4 and is off in 5. It is off for byte-level BPE, which
        gives text back as it was, and where transformers 5 refuses it; transformers 4 did it there too.
        """
        return type(self.fast.backend_tokenizer.model).__name__ == "WordPiece"

    def decode(self, ids: Iterable[int] | np.ndarray | Tensor) -> str:
        """The text of one sequence of ids, special tokens included by name."""
        ids = [int(one) for one in ids]
        return self.fast.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=self.clean_up)

    def encode_decoded(self, texts: list[str]) -> list[list[int]]:
        """Ids of decoded texts: names of special tokens, but for the mask's, stand for the tokens again."""
        special = {*self.fast.all_special_ids, self.bos_id, self.eos_id} - {self.mask_id}
        ids = {self.fast.convert_ids_to_tokens(one): one for one in special}
        marks = re.compile("(" + "|".join(map(re.escape, sorted(ids, key=len, reverse=True))) + ")")
        # Text stands at even places, a mark between any two of them.
        parts = [marks.split(text) for text in texts]
        plain = iter(self.encode([text for part in parts for text in part[::2]]))
        return [
            [one for at, mark in enumerate(part) for one in ([ids[mark]] if at % 2 else next(plain))] for part in parts
        ]


def _stoppable(call: Callable[[], Any]) -> Any:
    """What `call` gives: made in a thread, for one that is long within a library would keep signals waiting."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()


def _special(fast: transformers.PreTrainedTokenizerFast, declared: list[int | None], names: tuple[str, ...]) -> int:
    """The first declared id, else that of the first known name in the vocabulary, else -1."""
    vocabulary = fast.get_vocab()
    known = [vocabulary[name] for name in names if name in vocabulary]
    return next((one for one in [*declared, *known] if one is not None), -1)


def _local_reader(name: str, folder: Path) -> type[transformers.PreTrainedTokenizerFast] | None:
    """The class that reads the tokenizer in `folder`; None where there is no folder, and `name` is one of the hub."""
    if (folder / "tokenizer.json").is_file():
        return transformers.PreTrainedTokenizerFast
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return transformers.GPT2TokenizerFast
    if (folder / "vocab.txt").is_file():
        return transformers.BertTokenizerFast
    if folder.is_dir():
        raise ValueError(
            f"data.tokenizer={name} is a folder without tokenizer.json, vocab.json with merges.txt, or vocab.txt: "
            "name a folder that holds them"
        )
    if not hub.is_hub_name(name):
        raise ValueError(
            f"data.tokenizer={name} is no folder: correct it (a relative name starts from data.root or IMDM_DATA)"
        )
    return None


def load_tokenizer(name: str, root: Path | str = ".") -> Tokenizer:
    """Load a tokenizer from a local folder or, failing that, by its hub name, from the local cache or the hub.

    Args:
        name: folder that holds tokenizer.json, vocab.json and merges.txt, or vocab.txt; or a hub name.
        root: where a relative folder starts from.

    Raises:
        ValueError: nothing loads under that name, or what loads is empty, does not give back a plain
            English sentence, or has no begin and end tokens.
    """
    folder = Path(root) / Path(name).expanduser()
    local = _local_reader(name, folder)
    if local is not None:
        refuse_lfs_pointers(*(folder / file for file in _FILES))
    if local is None:
        print(f"data.tokenizer={name} is no folder under {root}: taking it for a name of the hub", file=sys.stderr)
    try:
        refuse_no_objects(*(folder / file for file in _FILES if file.endswith(".json")))
        # By from_pretrained only: the keyword constructors of transformers 5 make empty tokenizers.
        if local is not None:
            fast = local.from_pretrained(str(folder))
        else:
            fast = hub.load(transformers.AutoTokenizer.from_pretrained, name)
    except Exception as error:  # the Rust reader raises bare Exception on a damaged file
        what = "does not load"
        if local is None:
            what = f"is no folder under {root} (data.root or IMDM_DATA) and does not load from the hub"
        raise ValueError(
            f"data.tokenizer={name} {what} ({first_line(error)}): name a folder with tokenizer files"
        ) from None
    return wrap_tokenizer(fast, name)


def wrap_tokenizer(fast: transformers.PreTrainedTokenizerFast, name: str) -> Tokenizer:
    """Check a fast tokenizer, give it a mask if it has none, and fingerprint it.

    Raises:
        ValueError: as `load_tokenizer`.
    """
    if not isinstance(fast, transformers.PreTrainedTokenizerFast):
        raise ValueError(f"data.tokenizer={name} has no fast form: convert it to a tokenizer.json")
    backend = fast.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    try:
        ids = backend.encode(_PROBE, add_special_tokens=False).ids
        back = "".join(fast.decode(ids).lower().split())
    except Exception:  # the Rust code raises bare Exception where the vocabulary lacks what it needs
        back = ""
    if back != "".join(_PROBE.lower().split()):
        raise ValueError(
            f"data.tokenizer={name} is empty or wrong ({len(fast)} entries; {_PROBE!r} comes back as {back[:40]!r}): "
            "name a folder with a whole English tokenizer"
        )
    bos_id = _special(fast, [fast.bos_token_id, fast.cls_token_id], _BOS_NAMES)
    eos_id = _special(fast, [fast.eos_token_id, fast.sep_token_id], _EOS_NAMES)
    if min(bos_id, eos_id) < 0:
        raise ValueError(
            f"data.tokenizer={name} has no begin or no end token: add bos_token and eos_token to tokenizer_config.json"
        )
    mask_id = _special(fast, [fast.mask_token_id], _MASK_NAMES)
    if mask_id in (bos_id, eos_id):
        role, token = "begin" if mask_id == bos_id else "end", fast.convert_ids_to_tokens(mask_id)
        raise ValueError(
            f"data.tokenizer={name}: mask_token and {role} token are both {token!r}, which stands "
            "in every row: name another mask_token in its tokenizer_config.json, or none"
        )
    if mask_id < 0:
        fast.add_special_tokens({"mask_token": _MASK_NAMES[0]})
        mask_id = fast.mask_token_id
    _make_special(fast, {bos_id, eos_id, mask_id})
    vocabulary = fast.get_vocab()
    vocab_size = max(vocabulary.values()) + 1
    model = json.loads(backend.to_str())["model"]
    merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges", [])]
    fingerprint = hash_json([sorted(vocabulary.items()), merges, ids, bos_id, eos_id, mask_id])
    return Tokenizer(fast, vocab_size, mask_id, bos_id, eos_id, fingerprint)


def _make_special(fast: transformers.PreTrainedTokenizerFast, ids: set[int]) -> None:
    """Make added tokens special, whatever the tokenizer's file says: others are found within texts."""
    for token_id, token in fast.backend_tokenizer.get_added_tokens_decoder().items():
        if token_id in ids and not token.special:
            special = AddedToken(
                token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False
            )
            special.special = True
            fast.backend_tokenizer.add_special_tokens([special])


def train_bpe(texts: Iterable[str] | Iterable[list[str]], size: int, folder: Path | str) -> None:
    """Train a byte-level BPE and save it where `load_tokenizer` and `AutoTokenizer` read it.

    The same texts give the same files. Begin and end token are both `<|endoftext|>`, as in GPT-2.

    Args:
        size: ids wanted, the mask not counted; a short text gives fewer.
        folder: made if missing; tokenizer.json is written into it, not atomically.
    """
    os.makedirs(folder, exist_ok=True)
    train_backend(texts, size, END_OF_TEXT, Path(folder) / "tokenizer.json")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(Path(folder) / "tokenizer.json"),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
