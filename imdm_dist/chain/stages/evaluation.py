"""Stage `evaluation`: a table of models by step count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imdm_dist.chain.problems import StageProblems
from imdm_dist.chain.stage import Stage, input_of
from imdm_dist.config import Config
from imdm_dist.coupling import Coupling
from imdm_dist.data import prepare
from imdm_dist.data.row_format import RowFormat
from imdm_dist.error_boundary import in_a_line
from imdm_dist.problems import refuse
from imdm_dist.registry import METRICS, SOURCES
from imdm_dist.training.inputs import coupling_tokens, given_model

ID_BYTES = 4
"""Bytes of a token of a sample."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Stage):
    """A table of models, all of them judged alike."""

    coupling: str = input_of("coupling")
    """Pairs that models without their own are compared with."""
    evaluator: str = input_of("evaluator", elsewhere=True)
    """Stage whose language model scores, or a folder or hub name that transformers loads; empty: none."""
    models: Mapping[str, str] = input_of("model", needed=True, labelled=True)
    """Stages by the name they have in the table."""

    result = "result.json"
    shaping = ("evaluation", "train.valid_rows")

    def execute(self, folders: Mapping[str, Path], stages: Mapping[str, Stage], workers: int | None) -> None:
        from imdm_dist.evaluation.evaluate import Candidate, evaluate  # seconds to import

        def compared_with(model: str) -> NDArray[Any] | None:
            """The results of the pairs that a model learned, or of those that all are compared with."""
            coupling = getattr(stages[model], "coupling", "") or self.coupling
            return Coupling.open(folders[coupling]).result_PL if coupling else None

        candidates = {label: Candidate(folders[name], compared_with(name)) for label, name in self.models.items()}
        evaluator = folders.get(self.evaluator, Path(self.evaluator)) if self.evaluator else None
        evaluate(self.config, prepare(self.config.data), candidates, evaluator, folders[self.name])

    def input_problems(
        self, rows: RowFormat | None, stages: Mapping[str, Stage], problems: StageProblems
    ) -> Iterator[str]:
        for metric in self.config.evaluation.metrics:
            problems.attempt(self.name, METRICS.get, metric)
        problems.attempt(self.name, SOURCES.get, self.config.evaluation.source)
        for label, name in self.models.items():
            model = stages[name].record(stages, problems)
            if model and rows and (problem := model.tokens.unlike(rows)):
                yield f"model {label}, stage {name}, {problem}"
        if self.evaluator in stages:
            made = stages[self.evaluator].record(stages, problems)
            # It reads rows as long as its own and shorter ones.
            if made and rows and (problem := made.tokens.unlike(rows, length=made.tokens.length < rows.length)):
                yield f"the evaluator, stage {self.evaluator}, {problem}"
        elif self.evaluator:
            for problem in problems.attempt(self.name, evaluator_problems, self.evaluator, rows) or ():
                yield f"{problem} ({self.name}/evaluator=PATH)"

    def written_bytes(self, rows: RowFormat) -> float:
        table = self.config.evaluation
        samples = len(self.models) * len(table.steps) * len(table.seeds) * table.samples
        return float(samples * rows.length * ID_BYTES)


def evaluator_problems(name: str, rows: RowFormat | None) -> list[str]:
    """What keeps an evaluator that is a folder or a hub name from scoring rows; those of None may be any."""
    from imdm_dist.evaluation.evaluator_files import find_evaluator  # seconds to import

    try:
        found = find_evaluator(name)
    except ValueError as error:
        return [in_a_line(error)]
    problem = found.misfit(rows) if found and rows else None
    return [f"evaluator {problem}"] if problem else []


def check_evaluation(
    config: Config, models: Mapping[str, Path], evaluator: str | None, reference: str | None = None
) -> None:
    """Check what a table of models needs, before any of them draws a sample; see `evaluate`.

    Args:
        models: runs by their names in the table.
        evaluator: a folder or a hub name; None for a table without Gen. PPL.
        reference: folder of the coupling that all are compared with.

    Raises:
        ValueError, ProblemsError: a model, the evaluator or the coupling is missing, cut off or does not fit the data.
    """
    problems = StageProblems()
    rows = problems.tokens("", config.data)
    for name, folder in models.items():
        record = problems.attempt("", given_model, folder, f"--model {name}", config.evaluation.weights)
        if record and rows and (problem := record.tokens.unlike(rows)):
            problems.add("", f"model {name} {problem}")
    if evaluator:
        problems.add("", *evaluator_problems(evaluator, rows))
    if reference:
        problems.attempt("", coupling_tokens, Path(reference))
    refuse(problems.lines())
