"""The command `imdm_dist`: finds the subcommand that is asked for, and imports that one alone.

A new subcommand is a module here and a line in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from imdm_dist.error_boundary import guarded


class Command(Protocol):
    """A module of this room; its docstring says what the subcommand does."""

    __doc__: str
    EXAMPLES: str
    """What --help ends with: commands that work as they stand."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what the subcommand takes; nothing that is slow to import is needed for it."""

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Do it; returns the exit code, None for 0.

        Raises:
            ValueError, OSError: what the user has to mend, which becomes a line for each problem and exit code 2.
        """


COMMANDS = {
    "prepare-data": ("prepare_data", "pack text into token files, once"),
    "train": ("train", "train one stage: teacher, SDTT student or ReDi student; on one rank or many; resumes"),
    "couple": ("couple", "make a coupling in shards, with any number of workers; resumes"),
    "sample": ("sample", "sample text, from nothing or from prompts"),
    "evaluate": ("evaluate", "make tables of Gen. PPL, entropy and diversity by step count"),
    "train-evaluator": ("train_evaluator", "train a small causal LM that scores samples, for want of GPT-2-large"),
    "run": ("run", "run a chain of stages from one YAML file, here or on SLURM; what is whole is kept"),
    "status": ("status", "show the stages of a chain: what is whole, runs, waits or is missing"),
    "cancel": ("cancel", "cancel a chain's jobs on SLURM"),
    "provenance": ("provenance", "say what a stage was made from"),
    "submit": ("submit", "submit one training run to SLURM"),
    "plan": ("plan", "say what a run will need: parameters, memory, time, and what would fit"),
    "config": ("config", "print resolved settings, or all settings with their documentation"),
    "import": ("import_checkpoint", "make a run out of a published MDLM, SDTT or IMDM checkpoint"),
    "sync": ("sync", "send Weights & Biases runs that were recorded offline"),
    "demo": ("demo", "run the whole method on a small scale, minutes on a laptop"),
}
"""Module and purpose of each subcommand."""


def main() -> None:
    """Run the command line of this process; see `guarded` for exit codes."""
    guarded(lambda: _dispatch(sys.argv[1:]))


def tool(command: str, words: Sequence[str] | None = None, more: str = "") -> None:
    """Run a subcommand for a file of tools/, under that file's name.

    Args:
        words: what it is given; None takes this process's command line.
        more: what stands behind the file's name in the usage, if anything.
    """
    program = f"python tools/{Path(sys.argv[0]).name}{more}"
    guarded(lambda: _run(command, sys.argv[1:] if words is None else words, program))


def _dispatch(words: Sequence[str]) -> int | None:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ValueError(f"imdm_dist has no command {name}: {hint}")
    return _run(name, rest, f"imdm_dist {name}")


def _run(name: str, words: Sequence[str], program: str) -> int | None:
    command = cast(Command, importlib.import_module(f"imdm_dist.commands.{COMMANDS[name][0]}"))
    parser = argparse.ArgumentParser(
        prog=program,
        description=command.__doc__,
        epilog=command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return command.run(parser.parse_intermixed_args(words))


def _overview() -> str:
    import imdm_dist

    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: imdm_dist COMMAND ...",
            "",
            imdm_dist.__doc__ or "",
            "",
            *lines,
            "",
            "imdm_dist COMMAND --help says what each takes, with examples; any setting is given as key.sub=value.",
        ]
    )
