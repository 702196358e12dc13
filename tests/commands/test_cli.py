"""How a command line ends: in a line, with the exit code that a shell expects, and quietly where nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = """
import sys
from imdm_dist.error_boundary import guarded

def main():
    for _ in range(int(sys.argv[1])):
        print("x" * 100)
    if "fail" in sys.argv:
        raise ValueError("what is wrong")
    if "pipe" in sys.argv:
        raise BrokenPipeError(32, "Broken pipe")
    if "end" in sys.argv:
        raise SystemExit(75)

guarded(main)
"""


def call(
    *arguments: str, unbuffered: str = "", stdout: IO[Any] | int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", TOOL, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", ["1", "5000"])
def test_a_reader_that_goes_is_no_error(lines: str, unbuffered: str) -> None:
    tool = call(lines, unbuffered=unbuffered)
    assert tool.stdout is not None and tool.stderr is not None
    tool.stdout.close()  # as `| true` does
    assert tool.stderr.read() == b"" and tool.wait() == 141


def test_a_reader_of_both_streams_that_goes() -> None:
    tool = call("5000", stderr=subprocess.STDOUT)
    assert tool.stdout is not None
    tool.stdout.close()
    assert tool.wait() == 141


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [("fail", 2, b"error: what is wrong\n"), ("pipe", 2, b"error: broken pipe\n"), ("end", 75, b"")],
)
def test_other_ends_stay_what_they_are(what: str, code: int, said: bytes) -> None:
    tool = call("1", what)
    assert tool.communicate() == (b"x" * 100 + b"\n", said) and tool.returncode == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_room_is_an_error(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        tool = call("1", unbuffered=unbuffered, stdout=full)
        said = tool.communicate()[1].decode().splitlines()
    assert tool.returncode == 2 and len(said) == 1 and "no space left on device: make room" in said[0]
