"""Weights & Biases: whether its server can be reached now, and sending later what was recorded offline.

Every start of a training run leaves a part in its folder, `wandb/offline-run-TIME-ID`. All have the run's one id, by
which W&B's own command puts them together: it sends the parts of a run in the order of their start, each once, and
stops at one that fails. What it does not do is done here. It looks for runs one folder deep. One part that cannot be
read, such as that of a process which was killed before its first line, keeps it from sending any. And it takes the part
that a living run still writes for one that has failed, and marks it as sent.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from imdm_dist.training.heartbeat import read_heartbeat

COMMAND = (sys.executable, "-m", "wandb")
PATIENCE = 10.0
"""Seconds that a server may take to answer; `wandb sync` itself would ask for ever."""
EMPTY_BYTES = 7
"""A part of this size is the file's header."""
ALIVE_S = 300.0
"""Seconds since its last heartbeat within which a run that did not say it ends is taken to go on."""
Mode = Literal["off", "offline", "online"]


def unsynced(folders: Sequence[Path]) -> dict[Path, list[Path]]:
    """Parts (`.wandb` files) that can be sent and were not, oldest first, by run folder.

    Raises:
        ValueError: a folder does not exist.
    """
    found: dict[Path, set[Path]] = defaultdict(set)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: name run folders, or folders that hold them")
        for file in folder.rglob("*.wandb"):
            if file.parent.name.startswith("offline-run-"):
                found[file.resolve().parents[2]].add(file.resolve())
    parts = {}
    for run, files in sorted(found.items()):
        ordered = sorted(files)
        beat = read_heartbeat(run)
        if beat is not None and not beat.ended and beat.age < ALIVE_S:
            ordered.pop()
        if todo := [file for file in ordered if not _synced(file) and file.stat().st_size > EMPTY_BYTES]:
            parts[run] = todo
    return parts


def sync(parts: dict[Path, list[Path]], dry_run: bool = False) -> bool:
    """Have `wandb sync` send parts, or say what it would send, run by run; whether all came through.

    Raises:
        ValueError: the package or the server cannot be reached.
    """
    if parts and not dry_run:
        check_server()
    for files in parts.values():
        subprocess.run([*COMMAND, "sync", *["--dry-run"] * dry_run, *map(str, files)], check=False)
    # It exits with 0 also where it failed.
    return dry_run or all(_synced(file) for files in parts.values() for file in files)


def _synced(file: Path) -> bool:
    return file.with_name(f"{file.name}.synced").exists()


def check_server() -> None:
    """See that the server answers at all.

    Raises:
        ValueError: the package is missing, or nothing answers.
    """
    if silent := _silence(str(_wandb("this").setup().settings.base_url)):
        raise ValueError(
            f"{silent}: run this where there is a network, such as a login node, or set WANDB_BASE_URL or HTTPS_PROXY"
        )


def _wandb(what: str, instead: str = "") -> Any:
    """The package, which is an extra."""
    try:
        import wandb
    except ImportError:
        raise ValueError(f"{what} needs the package wandb: pip install 'imdm_dist[wandb]'{instead}") from None
    return wandb


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
    wandb = _wandb(f"train.wandb={wanted}", ", or set train.wandb=off")
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
