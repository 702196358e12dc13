"""An error that lists several problems at once, for checks that find all there are."""

from __future__ import annotations

from collections.abc import Iterable


class ProblemsError(ValueError):
    """What a user has to mend before anything can run, a line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def refuse(problems: Iterable[str]) -> None:
    """Raise what has been found; of lines that are alike, one.

    Raises:
        ValueError: there is one problem.
        ProblemsError: there are several.
    """
    lines = list(dict.fromkeys(problems))
    if len(lines) == 1:
        raise ValueError(lines[0])
    if lines:
        raise ProblemsError(lines)
