"""What a stage's result depends on, and what identifies the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imdm_dist.chain.chain import Stage
from imdm_dist.checkpoint.format import checkpoint_paths
from imdm_dist.checkpoint.read import find_checkpoint, newest_checkpoint
from imdm_dist.config import to_dict
from imdm_dist.coupling import verify
from imdm_dist.coupling.manifest import read_manifest
from imdm_dist.data import prepare
from imdm_dist.files import hash_json, read_record, sha256_file
from imdm_dist.training.setup import SHAPING_SETTINGS, total_steps, unread_by

FORMAT = 1
"""Raised when the code comes to make something else from the same settings."""
_SETTINGS = {
    "given": (),
    "train": ("model", "objective", "optimizer", "inputs", "train.steps", *SHAPING_SETTINGS),
    "coupling": ("coupling",),
    "evaluator": ("evaluator", "engine.precision"),
    "evaluation": ("evaluation", "train.valid_rows"),
}
"""Settings that a kind of stage depends on; its data count by what they hold, not by what they are called."""
_STATE = {"step": int, "files": dict}
_RESULT = {"evaluator": "model.safetensors", "evaluation": "result.json"}


def stage_identity(stage: Stage, inputs: dict[str, str], may_build: bool = True) -> dict[str, Any]:
    """All that a stage's result depends on: settings, the data's content and digests of the stages it starts from.

    Raises:
        NotPreparedError: the data would have to be built first, and `may_build` is false.
    """
    data = prepare(stage.config.data, may_build)
    return {
        "format": FORMAT,
        "kind": stage.kind,
        "settings": shaping(stage),
        "data": [data.train.fingerprint, data.valid.fingerprint],
        "inputs": inputs,
        "models": {name: inputs[model] for name, model in stage.models.items()},
        "evaluator": stage.evaluator if stage.evaluator not in inputs else "",
    }


def shaping(stage: Stage) -> dict[str, Any]:
    """The settings that a stage's result depends on."""
    settings = to_dict(stage.config)
    kept: dict[str, Any] = {}
    for key in _SETTINGS[stage.kind]:
        section, _, name = key.partition(".")
        kept[key] = settings[section][name] if name else settings[section]
    if "objective" in kept:
        unread = unread_by(stage.config.objective.kind)
        kept["objective"] = {name: value for name, value in kept["objective"].items() if name not in unread}
    return kept


def result_digest(stage: Stage, folder: Path) -> str:
    """Identity of a stage's result, worked out from every byte of its files.

    Raises:
        ValueError, OSError: the result is not whole.
    """
    if stage.kind == "given":
        return hash_json(find_checkpoint(folder).state["files"])
    if stage.kind == "train":
        found = newest_checkpoint(folder)
        if found is None or found.step < total_steps(stage.config):
            raise ValueError("its last checkpoint is missing")
        return hash_json(found.state["files"])
    if stage.kind == "coupling":
        return str(verify(folder)["digest"])
    return sha256_file(folder / _RESULT[stage.kind])


def given_state(folder: Path, setting: str) -> dict[str, Any]:
    """state.json of a given run or imported checkpoint.

    Raises:
        ValueError: there is none.
    """
    state = read_record(folder / "state.json", **_STATE) or _newest_state(folder)
    if state is None:
        raise ValueError(
            f"there is no run or checkpoint at {folder}: set {setting}=PATH; a public checkpoint is "
            "made into one by tools/import_checkpoint.py"
        )
    return state


def _newest_state(folder: Path) -> dict[str, Any] | None:
    """The state.json of a run's newest checkpoint that has a whole one."""
    states = (read_record(path / "state.json", **_STATE) for path in reversed(checkpoint_paths(folder).values()))
    return next((state for state in states if state is not None), None)


def claimed_digest(stage: Stage, folder: Path) -> str:
    """The same as the files' own lists say, with no look at what is in the files: for a quick survey.

    Raises:
        ValueError, OSError: a list is missing or says that the result is not whole.
    """
    if stage.kind == "given":
        return hash_json(given_state(folder, f"{stage.name}/inputs.init")["files"])
    if stage.kind == "train":
        state = _newest_state(folder)
        if state is None or state["step"] < total_steps(stage.config):
            raise ValueError("its last checkpoint is missing")
        return hash_json(state["files"])
    if stage.kind == "coupling":
        return str(read_manifest(folder)["digest"])
    return sha256_file(folder / _RESULT[stage.kind])
