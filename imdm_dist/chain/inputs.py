"""Whether what each stage of a chain starts from will fit it, told before any of it is made.

What a stage will make is known from its settings, and what is given from records and headers; no weight is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from imdm_dist.chain.chain import Chain, Stage
from imdm_dist.cli import in_a_line
from imdm_dist.config.data import DataConfig
from imdm_dist.data.tokens import Tokens, tokens_of
from imdm_dist.training.inputs import ModelRecord, coupling_misfit, given_model, misfits


class Inputs:
    """What the stages of a chain start from, as far as it is known, and what is wrong with it."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._found: dict[str, list[str]] = {}
        """Stages by what is wrong with them."""
        self._given = functools.cache(_given)
        self._tokens = functools.cache(_tokens)
        self._evaluator = functools.cache(evaluator_problems)

    def problems(self) -> list[str]:
        """A line for each problem."""
        return [
            f"stage {first}: {problem}" + (f" (also stage {', '.join(others)})" if others else "")
            for problem, (first, *others) in self._found.items()
        ]

    def say(self, stage: str, problem: str) -> None:
        """Keep a problem of a stage."""
        stages = self._found.setdefault(problem, [])
        if stage not in stages:
            stages.append(stage)

    def check(self, stage: Stage) -> Tokens | None:
        """Look at what a stage starts from; returns the tokens of its data, None where they are not to be had."""
        if stage.kind == "given":
            self.model(stage.name)
            return None
        rows = self.tokens(stage)
        checks = {"train": self._train, "coupling": self._coupling, "evaluation": self._evaluation}
        for problem in checks[stage.kind](stage, rows) if stage.kind in checks else ():
            self.say(stage.name, problem)
        return rows

    def tokens(self, stage: Stage) -> Tokens | None:
        """The tokens of a stage's data; None, with the problem kept, where they are not to be had."""
        found = self._tokens(stage.config.data)
        if isinstance(found, str):
            self.say(stage.name, found)
            return None
        return found

    def model(self, name: str) -> ModelRecord | None:
        """The model that a stage is or makes; None, with the problem kept, where it is not known."""
        stage = self.chain.stage(name)
        if stage.kind != "given":
            rows = self.tokens(stage)
            return ModelRecord(stage.config.model, rows) if rows else None
        found = self._given(stage.config.inputs.init, f"{name}/inputs.init")
        if isinstance(found, str):
            self.say(name, found)
            return None
        return found

    def _train(self, stage: Stage, rows: Tokens | None) -> Iterator[str]:
        if stage.init and (init := self.model(stage.init)) and rows:
            what = "given model" if self.chain.stage(stage.init).kind == "given" else f"model of stage {stage.init}"
            for problem in misfits(init, stage.config, rows):
                yield f"the {what} {problem}"
        if stage.coupling:
            # A coupling has its teacher's tokens.
            teacher = self.model(self.chain.stage(stage.coupling).teacher)
            if teacher and rows and (unlike := coupling_misfit(teacher.tokens, rows)):
                yield f"the coupling of stage {stage.coupling} {unlike}"

    def _coupling(self, stage: Stage, rows: Tokens | None) -> Iterator[str]:
        teacher = self.model(stage.teacher)
        if teacher and rows and stage.config.coupling.kind == "perturbed":
            if problem := teacher.tokens.unlike(rows):
                yield f"the teacher, stage {stage.teacher}, {problem}"

    def _evaluation(self, stage: Stage, rows: Tokens | None) -> Iterator[str]:
        for label, name in stage.models.items():
            model = self.model(name)
            if model and rows and (problem := model.tokens.unlike(rows)):
                yield f"model {label}, stage {name}, {problem}"
        if stage.evaluator in self.chain.inputs(stage):
            theirs = self.tokens(self.chain.stage(stage.evaluator))
            # It reads rows as long as its own and shorter ones.
            if theirs and rows and (problem := theirs.unlike(rows, length=theirs.length < rows.length)):
                yield f"the evaluator, stage {stage.evaluator}, {problem}"
        elif stage.evaluator:
            for problem in self._evaluator(stage.evaluator, rows):
                yield f"{problem} ({stage.name}/evaluator=PATH)"


def _tokens(data: DataConfig) -> Tokens | str:
    try:
        return tokens_of(data)
    except (ValueError, OSError) as error:
        return in_a_line(error)


def _given(folder: str, setting: str) -> ModelRecord | str:
    try:
        return given_model(Path(folder), setting)
    except (ValueError, OSError) as error:
        return in_a_line(error)


def evaluator_problems(name: str, rows: Tokens | None) -> list[str]:
    """What keeps an evaluator that is a folder or a hub name from scoring rows; those of None may be any."""
    from imdm_dist.evaluation.evaluator_files import find_evaluator  # seconds to import

    try:
        found = find_evaluator(name)
    except ValueError as error:
        return [in_a_line(error)]
    problem = found.misfit(rows) if found and rows else None
    return [f"evaluator {problem}"] if problem else []
