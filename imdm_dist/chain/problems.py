"""Collects what is wrong with the stages of a chain before anything is made, so that all of it is said at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from imdm_dist.config.data import DataConfig
from imdm_dist.data.row_format import RowFormat, row_format
from imdm_dist.error_boundary import in_a_line
from imdm_dist.problems import ProblemsError


class StageProblems:
    """Problems by stage; those of no stage in particular have an empty name. What several ask for is read once."""

    def __init__(self) -> None:
        self._stages: dict[str, list[str]] = {}
        """By problem."""
        self._cached = functools.cache(_result_or_problems)

    def lines(self) -> list[str]:
        """A line for each problem."""
        return [
            (f"stage {first}: " if first else "") + problem + (f" (also stage {', '.join(others)})" if others else "")
            for problem, (first, *others) in self._stages.items()
        ]

    def add(self, stage: str, *problems: str) -> None:
        """Add problems of a stage."""
        for problem in problems:
            stages = self._stages.setdefault(problem, [])
            if stage not in stages:
                stages.append(stage)

    def attempt(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns; None where it raises ValueError or OSError, which is added to the stage's problems.

        Args:
            arguments: hashable.
        """
        result, problems = self._cached(function, *arguments)
        self.add(stage, *problems)
        return result

    def tokens(self, stage: str, data: DataConfig) -> RowFormat | None:
        """The tokens of a stage's data; None, with the problem added, where they are not to be had."""
        tokens: RowFormat | None = self.attempt(stage, row_format, data)
        return tokens


def _result_or_problems(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    try:
        return function(*arguments), []
    except ProblemsError as error:
        return None, error.lines
    except (ValueError, OSError) as error:
        return None, [in_a_line(error)]


def largest_vocabulary(rows: RowFormat) -> int:
    """Size of the vocabulary; the largest that it can have, where it is not known yet."""
    return rows.vocab_size or rows.most
