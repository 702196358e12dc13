"""Training of a byte-level BPE, in a process of its own: the library does not react to signals, a process can be ended.

The trainer's time grows with the square of its longest word, so it sees longer ones in pieces. Run as a program, this
file reads lists of texts from standard input, a JSON line each and null behind the last, and writes tokenizer.json.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LONGEST_WORD = 1024
"""Bytes of a word that the trainer sees whole."""
_RUN = re.compile("|".join(rf"{one}{{{LONGEST_WORD}}}" for one in (r"[^\W\d_]", r"\d", r"(?:_|[^\w\s])", r"\s")))
"""A run without a break where GPT-2's rule, which the trainer follows, parts words."""
_SPACES = re.compile(rf"\s{{{LONGEST_WORD}}}")
_TICK = 0.5


def long_word(text: str) -> str:
    """A sign of the first word of a text that is too long for the trainer, as Python writes it; empty if none is."""
    if len(text) < LONGEST_WORD:
        return ""
    # Most texts have neither, which is found out far sooner than that `_RUN` is not in them.
    if max(map(len, text.split()), default=0) < LONGEST_WORD and not _SPACES.search(text):
        return ""
    found = _RUN.search(text)
    return repr(found[0][-1]) if found else ""


def train_backend(texts: Iterable[str] | Iterable[list[str]], size: int, end_of_text: str, out: Path) -> None:
    """Train a BPE of `size` ids and write it as tokenizer.json; a signal's exception ends the training at once.

    Args:
        texts: texts, or lists of them.
        end_of_text: the special token, which gets id 0.

    Raises:
        ValueError: the training was killed, which systems do that run out of memory.
    """
    from tqdm import tqdm

    # Not as a module: importing the package would take longer than a small training.
    command = [sys.executable, "-P", __file__, str(size), end_of_text, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as trainer:
        assert trainer.stdin is not None and trainer.stderr is not None
        try:
            try:
                for batch in texts:
                    trainer.stdin.write(json.dumps([batch] if isinstance(batch, str) else batch).encode() + b"\n")
                trainer.stdin.write(b"null\n")
                trainer.stdin.close()
            except BrokenPipeError:
                pass  # it has died, and says why
            with tqdm(desc=f"merging to {size:,} entries", bar_format="{desc}: {elapsed}", delay=_TICK) as bar:
                while trainer.poll() is None:
                    time.sleep(_TICK if bar.n else 0.01)
                    bar.update()
        except BaseException:
            trainer.kill()
            raise
        said = trainer.stderr.read().decode(errors="replace").strip()
    if trainer.returncode < 0:
        name = signal.Signals(-trainer.returncode).name
        raise ValueError(f"the training of the BPE was ended by {name}: give it more memory, or less text")
    assert trainer.returncode == 0, said


def _batches() -> Iterator[list[str]]:
    for line in sys.stdin.buffer:
        batch = json.loads(line)
        if batch is None:
            return
        yield batch
    os._exit(1)  # the texts broke off: who gave them has died


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_TICK)
    os._exit(1)


def _main(size: str, end_of_text: str, out: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started this ends it
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [byte_level, pre_tokenizers.Split(Regex(f".{{{LONGEST_WORD}}}"), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=int(size),
        special_tokens=[end_of_text],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(), trainer)
    backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    backend.save(out)


if __name__ == "__main__":
    _main(*sys.argv[1:])
