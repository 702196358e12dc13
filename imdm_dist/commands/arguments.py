"""Arguments that several subcommands take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
"""The files of configs/ as the package has them."""


def add_overrides(
    parser: argparse.ArgumentParser, about: str = "settings that win over the file's", form: str = "key.sub=value"
) -> None:
    """Settings behind the command, in `overrides`."""
    parser.add_argument("overrides", nargs="*", default=[], metavar=form, help=about)


def add_file_and_overrides(parser: argparse.ArgumentParser) -> None:
    """A YAML file, which may be left out, and settings, in `settings`; `file_and_overrides` takes them apart."""
    parser.add_argument(
        "settings", nargs="*", default=[], help="a YAML file (one stage, or a chain), then any key.sub=value"
    )


def file_and_overrides(settings: Sequence[str]) -> tuple[str | None, list[str]]:
    """The YAML file, if there is one, and the settings."""
    if settings and "=" not in settings[0]:
        return settings[0], list(settings[1:])
    return None, list(settings)


def add_chain(parser: argparse.ArgumentParser) -> None:
    """A chain's file, where its runs are, and settings."""
    parser.add_argument("chain", help="YAML file of the chain")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    add_overrides(parser, "settings that win over the file's, in all stages or in one", "[stage/]key.sub=value")
