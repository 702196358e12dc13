"""Words without end, and work that is long: a BPE is trained on pieces, and whatever lasts can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imdm_dist.data import bpe, prepare, tokenizer
from imdm_dist.data.tokenizer import load_tokenizer, train_bpe
from tests.data.test_text_files import config_of

SENTENCES = [f"Some plain words, and the number {at}." for at in range(200)]


@pytest.mark.parametrize("sign", ["=", "\0", "a", "7", " ", "\n", "é", "漢"])
def test_a_word_without_end_is_cut_for_the_trainer(tmp_path: Path, sign: str) -> None:
    started = time.monotonic()
    train_bpe([*SENTENCES, sign * 2_000_000], 320, tmp_path / "bpe")  # whole, it would take half an hour or more
    assert time.monotonic() - started < 60
    trained = load_tokenizer(str(tmp_path / "bpe"))
    (ids,) = trained.encode(["Some " + sign * 3000])
    assert trained.decode(ids) == "Some " + sign * 3000
    assert bpe.long_word("Some words" + sign * 3000) == repr(sign) and bpe.long_word("Some words " * 3000) == ""


def test_words_up_to_the_limit_are_learned_whole(tmp_path: Path) -> None:
    train_bpe([*SENTENCES, "=" * bpe.LONGEST_WORD, "=" * bpe.LONGEST_WORD], 400, tmp_path / "bpe")
    (ids,) = load_tokenizer(str(tmp_path / "bpe")).encode(["=" * bpe.LONGEST_WORD])
    assert len(ids) == 1


def test_long_words_and_zeros_are_named_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*SENTENCES[:100], "x" + "=" * 5000, *SENTENCES[100:], "\0" * 3_000_000]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(SENTENCES) + "\n")
    prepare(config_of(tmp_path, "a.txt", valid=("b.txt",), bpe_size=320, length=16))
    said = capsys.readouterr().err
    assert "a.txt, line 101: a word of 1,024 characters or more (of '='); the BPE is trained on pieces of it" in said
    assert "a.txt, line 202: a word of 1,024 characters or more (of '\\x00')" in said
    assert said.count("data.train: NUL characters in") == 1 and "a.txt, line 202: is the file whole?" in said


BUILDER = """
import sys
from pathlib import Path
from imdm_dist.error_boundary import guarded
from imdm_dist.config.data import DataConfig
from imdm_dist.data import prepare
from imdm_dist.signals import heed_signals
if sys.argv[2] == "heed":
    heed_signals()
here = Path(sys.argv[1])
guarded(lambda: prepare(DataConfig(root=str(here), source="files", train=("a.txt",), valid=("a.txt",), bpe_size=60000,
                                   length=16, cache=str(here / "cache"))) and None)
"""


@pytest.mark.parametrize(
    ("number", "heed", "code"),
    [(signal.SIGINT, False, 130), (signal.SIGTERM, False, -signal.SIGTERM), (signal.SIGTERM, True, 75)],
)
def test_the_training_of_a_bpe_can_be_stopped(tmp_path: Path, number: int, heed: bool, code: int) -> None:
    # Random bytes in words of letters: a minute of merges.
    words = os.urandom(2_000_000).hex().translate(str.maketrans("0123456789", "ghijklmnop"))
    (tmp_path / "a.txt").write_text("\n".join(words[at : at + 500] for at in range(0, len(words), 500)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are deaf to it
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path), "heed" if heed else ""], stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    said = ""
    while "merging" not in said:
        said += process.stderr.read(1)
        assert process.poll() is None, said
    started = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code and time.monotonic() - started < 30
    deadline = time.monotonic() + 30
    while _trainers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _trainers(tmp_path) == []
    if code > 0:
        assert [path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")] == []


def _trainers(folder: Path) -> list[str]:
    """Processes that were started to train for this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"bpe.py" in command and str(folder).encode() in command:
            found.append(command.decode())
    return found


def test_encoding_a_long_text_hears_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_bpe(SENTENCES, 300, tmp_path / "bpe")
    trained = load_tokenizer(str(tmp_path / "bpe"))
    text = " ".join(SENTENCES) * 20
    expected = trained.encode([text])
    monkeypatch.setattr(tokenizer, "_LONG", 10)
    assert trained.encode([text]) == expected
    heard = threading.Event()

    def hear(number: int, frame: object) -> None:
        heard.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, hear)
    try:
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            tokenizer._stoppable(lambda: time.sleep(5))
        assert heard.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
