"""What is found wrong with a chain before anything is made: problems by stage, and what was looked up for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from imdm_dist.config.data import DataConfig
from imdm_dist.data.row_format import RowFormat, row_format
from imdm_dist.error_boundary import in_a_line
from imdm_dist.problems import ProblemsError


class Checks:
    """Problems of stages, or of what is no stage: its name is empty. What several ask for is looked up once."""

    def __init__(self) -> None:
        self._stages: dict[str, list[str]] = {}
        """By problem."""
        self._look_up = functools.cache(_found)

    def problems(self) -> list[str]:
        """A line for each problem."""
        return [
            (f"stage {first}: " if first else "") + problem + (f" (also stage {', '.join(others)})" if others else "")
            for problem, (first, *others) in self._stages.items()
        ]

    def add(self, stage: str, *problems: str) -> None:
        """Keep problems of a stage."""
        for problem in problems:
            stages = self._stages.setdefault(problem, [])
            if stage not in stages:
                stages.append(stage)

    def look_up(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns; None where it raises ValueError or OSError, with that kept as the stage's problems.

        Args:
            arguments: hashable.
        """
        found, problems = self._look_up(function, *arguments)
        self.add(stage, *problems)
        return found

    def tokens(self, stage: str, data: DataConfig) -> RowFormat | None:
        """The tokens of a stage's data; None, with the problem kept, where they are not to be had."""
        found: RowFormat | None = self.look_up(stage, row_format, data)
        return found


def _found(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    try:
        return function(*arguments), []
    except ProblemsError as error:
        return None, error.lines
    except (ValueError, OSError) as error:
        return None, [in_a_line(error)]


def ids_of(rows: RowFormat) -> int:
    """Size of the vocabulary; the largest that it can have, where it is not known yet."""
    return rows.vocab_size or rows.most
