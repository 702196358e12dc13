"""What is wrong, in words: the first line of an error, and several problems found together and said together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class ProblemsError(ValueError):
    """What a user has to mend before anything can run, a line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def some_of(names: Sequence[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


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
