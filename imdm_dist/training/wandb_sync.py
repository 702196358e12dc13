"""Weights & Biases, which mirrors runs: whether its server takes one now, and what is sent later by `wandb sync`.

Every start of a training run leaves a segment in its folder, `wandb/offline-run-TIME-ID`; all have the run's one id, so
that its server puts them together, in the order in which they are sent. What has been sent has a file `*.wandb.synced`
beside it. That file counts, since `wandb sync` exits with 0 also where it failed.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imdm_dist.training.heartbeat import read_heartbeat

COMMAND = (sys.executable, "-m", "wandb")
PATIENCE = 10.0
"""Seconds that a server may take to answer; `wandb sync` itself would ask for ever."""
EMPTY_BYTES = 7
"""A segment of this size is the file's header: its process was killed before it wrote a line."""
ALIVE_S = 300.0
"""Seconds since its last heartbeat within which a run that did not say it ends is taken to go on."""


Mode = Literal["off", "offline", "online"]


@dataclass(frozen=True)
class Report:
    """What became of a run's segments."""

    run: Path
    sent: int
    left: int
    """Still to be sent."""
    cause: str = ""
    """Of a failure."""


def unsynced(folders: Sequence[Path]) -> dict[Path, list[Path]]:
    """Segments (`.wandb` files) to be sent, oldest first, by run folder.

    The newest segment of a run that goes on is left out: what came later would not be sent any more.

    Raises:
        ValueError: a folder does not exist.
    """
    found: dict[Path, list[Path]] = defaultdict(list)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: name run folders, or folders that hold them")
        inside = [folder] if folder.name.startswith("offline-run-") else folder.rglob("offline-run-*")
        for file in {file.resolve() for path in inside for file in path.glob("*.wandb")}:
            found[file.parents[2]].append(file)
    segments = {}
    for run, files in sorted(found.items()):
        ordered = sorted(set(files))
        beat = read_heartbeat(run)
        if beat is not None and not beat.ended and beat.age < ALIVE_S:
            ordered.pop()
        todo = [file for file in ordered if not _synced(file).exists() and file.stat().st_size > EMPTY_BYTES]
        if todo:
            segments[run] = todo
    return segments


def sync(segments: dict[Path, list[Path]]) -> Iterator[Report]:
    """Send segments, run by run; one that fails leaves the later ones of its run for the next time.

    Raises:
        ValueError: the package or the server cannot be reached.
    """
    if segments:
        check_server()
    for run, files in segments.items():
        sent, cause = 0, ""
        for file in files:
            done = subprocess.run([*COMMAND, "sync", str(file.parent)], capture_output=True, text=True, check=False)
            if not _synced(file).exists():
                cause = f"{file.parent.name}: {_cause(done.stdout + done.stderr)}"
                break
            sent += 1
        yield Report(run, sent, len(files) - sent, cause)


def check_server() -> None:
    """See that the server answers at all.

    Raises:
        ValueError: the package is missing, or nothing answers.
    """
    try:
        import wandb
    except ImportError:
        raise ValueError("this needs the package wandb: pip install 'imdm_dist[wandb]'") from None
    if silent := _silence(str(wandb.setup().settings.base_url)):
        raise ValueError(
            f"{silent}: run this where there is a network, such as a login node, or set WANDB_BASE_URL or HTTPS_PROXY"
        )


def _silence(url: str) -> str:
    """Why nothing comes from a server; empty if it answers."""
    try:
        urllib.request.urlopen(url, timeout=PATIENCE).close()
    except urllib.error.HTTPError:  # an answer
        pass
    except (OSError, ValueError) as error:  # ValueError: what is set is no address
        return f"{url} does not answer ({getattr(error, 'reason', error)})"
    return ""


def mirror_mode(wanted: Mode) -> Mode:
    """How a run can be mirrored: offline, with a line that says why, where `online` would not come through.

    Raises:
        ValueError: the package is missing.
    """
    if wanted == "off":
        return wanted
    try:
        import wandb
    except ImportError:
        raise ValueError(
            f"train.wandb={wanted} needs the package wandb: pip install 'imdm_dist[wandb]', or set train.wandb=off"
        ) from None
    if wanted == "offline":
        return wanted
    cause = _silence(str(wandb.setup().settings.base_url))
    if not cause:
        try:
            cause = "" if wandb.login(prompt=False) else "there is no API key (wandb login, or WANDB_API_KEY)"
        except wandb.errors.Error as error:
            cause = one_line(error)
    return go_offline(cause) if cause else wanted


def go_offline(cause: str) -> Mode:
    """Say that a run is recorded offline; returns that mode."""
    print(f"train.wandb=online, but {cause}: recorded offline, imdm_dist sync sends it later", file=sys.stderr)
    return "offline"


def one_line(error: Exception) -> str:
    """What the library has to say of an error."""
    return " ".join(str(error).split()) or type(error).__name__


def _synced(file: Path) -> Path:
    return file.with_name(f"{file.name}.synced")


def _cause(output: str) -> str:
    lines = [line.removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error") and "error logs at" not in line]
    return (errors or lines or ["it said nothing"])[-1]
