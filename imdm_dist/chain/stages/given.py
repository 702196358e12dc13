"""Stage `given`: a model that is there already, from a run or an imported checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imdm_dist.chain.problems import StageProblems
from imdm_dist.chain.stage import Stage
from imdm_dist.checkpoint.read import find_checkpoint
from imdm_dist.files import hash_json
from imdm_dist.training.inputs import ModelRecord, given_model


@dataclass(frozen=True, kw_only=True)
class Given(Stage):
    """The model in the folder `inputs.init`. Nothing makes it."""

    makes = "model"

    def check(self, where: str) -> None:
        if not self.config.inputs.init:
            raise ValueError(
                f"{where} is of kind {self.kind}: set its run or imported checkpoint, here or as "
                f"{self.name}/inputs.init=PATH"
            )
        if self.config.inputs.coupling:
            super().check(where)

    def given_folder(self) -> Path:
        return Path(self.config.inputs.init)

    def digest(self, folder: Path) -> str:
        given_model(folder, self._setting)
        return hash_json(find_checkpoint(folder).state["files"])

    def claimed_digest(self, folder: Path) -> str:
        given_model(folder, self._setting)
        return hash_json(find_checkpoint(folder, quick=True).state["files"])

    def record(self, stages: Mapping[str, Stage], problems: StageProblems) -> ModelRecord | None:
        found: ModelRecord | None = problems.attempt(self.name, given_model, self.given_folder(), self._setting)
        return found

    @property
    def _setting(self) -> str:
        return f"{self.name}/inputs.init"
