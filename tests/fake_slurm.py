"""SLURM's commands as scripts: they say what a test has put into files, and note what they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_COMMANDS = {
    "sbatch": "{ grep -e '#SBATCH --job-name' \"$1\"; grep '#SBATCH' \"$1\" | grep -v -e --job-name; echo; } | "
    "sed -e 's/^#SBATCH //' >>sbatch-asked\n"
    'n=$(($(cat number) + 1)); echo $n >number; echo "Submitted batch job $n"',
    "squeue": 'case "$*" in *"=%l") cat limit;; *"=%T") cat state;; *) cat queue;; esac',
    "sinfo": "cat partitions",
    "sacct": "cat accounting",
    "scancel": 'echo "scancel $*" >>asked',
    "scontrol": 'echo "scontrol $*" >>asked',
    "srun": 'shift; exec "$@"',
}


class FakeSlurm:
    """A cluster of files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in _COMMANDS.items():
            work = "" if name == "srun" else f"cd {folder}\n"
            (folder / name).write_text(f"#!/bin/sh\n{work}{text}\n")
            (folder / name).chmod(0o755)
        self.say(queue="", limit="UNLIMITED", state="RUNNING", partitions="main*|4|n/a|infinite", accounting="")
        self.say(number="100", asked="")

    def say(self, **files: str) -> None:
        """Set what the commands answer: queue, limit, state, partitions (name, machines, usual and longest time)."""
        for name, text in files.items():
            (self.folder / name).write_text(f"{text}\n" if text else "")

    @property
    def submitted(self) -> list[list[str]]:
        """The options in the script that each sbatch was given, the job's name first."""
        path = self.folder / "sbatch-asked"
        return [part.split("\n") for part in path.read_text().split("\n\n")[:-1]] if path.exists() else []

    @property
    def asked(self) -> list[str]:
        """Calls of scancel and scontrol."""
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """SLURM's commands of this process and of those that it starts."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    made = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("PATH", str(made.folder), prepend=os.pathsep)
    yield made
