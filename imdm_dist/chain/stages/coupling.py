"""Stage `coupling`: pairs of noise and text by rollouts of a teacher, in shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from imdm_dist.chain.preflight import check_folder
from imdm_dist.chain.problems import StageProblems, largest_vocabulary
from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.chain.stage import Stage, StageProgress, input_of
from imdm_dist.config import Config
from imdm_dist.config.data import DataConfig
from imdm_dist.coupling import discard_damaged, verify
from imdm_dist.coupling.manifest import read_manifest
from imdm_dist.coupling.progress import coupling_progress
from imdm_dist.data.row_format import RowFormat, row_format
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.plan import CouplingPlan, plan_coupling
from imdm_dist.planning.plan_text import duration
from imdm_dist.planning.vocabulary_size import vocabulary_size
from imdm_dist.registry import SOURCES
from imdm_dist.training.inputs import ModelRecord, given_model


@dataclass(frozen=True, kw_only=True)
class Coupling(Stage):
    """Rollouts of a teacher."""

    teacher: str = input_of("model", needed=True)
    """Stage whose model rolls out."""

    makes = "coupling"
    shaping = ("coupling",)
    processes = "apart"

    def digest(self, folder: Path) -> str:
        return str(verify(folder)["digest"])

    def claimed_digest(self, folder: Path) -> str:
        return str(read_manifest(folder)["digest"])

    def execute(self, folders: Mapping[str, Path], stages: Mapping[str, Stage], workers: int | None) -> None:
        generate_coupling(self.config, folders[self.teacher], folders[self.name], workers)

    def discard_damaged(self, folder: Path) -> None:
        discard_damaged(folder)

    def progress(self, folder: Path) -> StageProgress | None:
        there = coupling_progress(folder)
        if there is None:
            return None
        return StageProgress(there.text, duration(there.time_left) if there.time_left else "")

    def record(self, stages: Mapping[str, Stage], problems: StageProblems) -> ModelRecord | None:
        return stages[self.teacher].record(stages, problems)

    def input_problems(
        self, rows: RowFormat | None, stages: Mapping[str, Stage], problems: StageProblems
    ) -> Iterator[str]:
        problems.attempt(self.name, SOURCES.get, self.config.coupling.source)
        teacher = self.record(stages, problems)
        if teacher and rows and self.config.coupling.kind == "perturbed":  # the other kind reads no text
            if problem := teacher.tokens.unlike(rows):
                yield f"the teacher, stage {self.teacher}, {problem}"

    def written_bytes(self, rows: RowFormat) -> float:
        return plan_coupling(self.config, Hardware(), largest_vocabulary(rows)).file_bytes

    def plan(self, stages: Mapping[str, Stage], hardware: Hardware, vocab_size: int | None) -> CouplingPlan:
        config = replace(self.config, model=stages[self.teacher].config.model)
        return plan_coupling(config, hardware, vocab_size or vocabulary_size(config.data))


def coupling_problems(config: Config, learned: DataConfig, teacher: str | None, place: Path) -> list[str]:
    """What keeps a coupling from being made, seen before any rollout.

    Args:
        learned: data settings of the teacher.
        teacher: its run folder or checkpoint; None is still to be trained.
        place: where the coupling's folder will be.
    """

    def check_teacher() -> None:
        given = given_model(Path(teacher), "--teacher", config.coupling.weights) if teacher else None
        if config.coupling.kind == "perturbed":
            theirs = given.tokens if given else row_format(learned)
            if problem := theirs.unlike(row_format(config.data)):
                raise ValueError(f"the teacher {problem}")

    needed = plan_coupling(config, Hardware(), vocab_size=2).file_bytes  # of any vocabulary
    problems = StageProblems()
    problems.attempt("", check_teacher)
    problems.attempt("", check_folder, place, needed, "name another folder with --out")
    return problems.lines()


def progress_line(folder: Path) -> str:
    """How far a coupling is, in a line."""
    there = coupling_progress(folder)
    if there is None:
        raise ValueError(f"{folder} holds no coupling: give the folder that imdm_dist couple writes to")
    return f"{there.text}; {duration(there.time_left)} left" if there.time_left else there.text
