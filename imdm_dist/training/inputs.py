"""Checks of what a run starts from (a model, a coupling, its checkpoint) by records and headers; no weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from imdm_dist import run_files
from imdm_dist.checkpoint.format import checkpoint_paths
from imdm_dist.checkpoint.read import Checkpoint, find_checkpoint
from imdm_dist.config import to_dict
from imdm_dist.config.data import DataConfig
from imdm_dist.config.model import ModelConfig
from imdm_dist.config.schema import Config
from imdm_dist.config.setting import Weights, meaning_of
from imdm_dist.coupling.manifest import read_manifest
from imdm_dist.data.prepare import NotPreparedError, prepare
from imdm_dist.data.row_format import RowFormat, row_format
from imdm_dist.model import sketch
from imdm_dist.objectives.objective import objective_of
from imdm_dist.problems import refuse

_PLACES = {"root", "train", "valid", "name", "text_field", "tokenizer", "cache"}
"""Settings of the section data that may differ where the rows are the same."""


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a model without its weights."""

    model: ModelConfig
    tokens: RowFormat
    """Of what it was or will be trained on."""


def given_model(folder: Path, setting: str, weights: Weights | None = None) -> ModelRecord:
    """The model of a run or checkpoint that is there.

    Args:
        setting: what names it, for the message.
        weights: look at the files of these; None looks at all.

    Raises:
        ValueError: it is not there, or a file of it is missing, cut off or something else.
    """
    checkpoint = _checkpoint(folder, setting, weights)
    state, config = checkpoint.state, checkpoint.config()
    model, data = state["model"], config.data
    name = "synthetic" if data.source == "synthetic" else data.tokenizer
    most = data.bpe_size + 1 if name == "embedded" else model["vocab_size"]
    fingerprint = state["provenance"]["tokenizer"]
    tokens = RowFormat(name, model["length"], most, model["vocab_size"], model["mask_id"], fingerprint)
    return ModelRecord(config.model, tokens)


def given_config(folder: Path, setting: str) -> Config:
    """The settings of a run or checkpoint that is there, but for its objective; as `given_model`."""
    return _checkpoint(folder, setting, "ema").config()


def _checkpoint(folder: Path, setting: str, weights: Weights | None) -> Checkpoint:
    if not (folder / run_files.STATE).exists() and not checkpoint_paths(folder):
        raise ValueError(
            f"there is no run or checkpoint at {folder}: set {setting}=PATH; a public checkpoint is "
            "made into one by imdm_dist import"
        )
    return find_checkpoint(folder, {None: "", "ema": "ema", "raw": "weights"}[weights], quick=True)


def misfits(given: ModelRecord, config: Config, ours: RowFormat) -> Iterator[str]:
    """What keeps a run of `config` from starting at a model's weights."""
    theirs, wanted = given.model, config.model
    unlike_settings = theirs.unlike(wanted)
    for name, (there, here) in unlike_settings.items():
        yield f"has model.{name}={there}, here it is {here}: set model.{name}={there}"
    if unlike := given.tokens.unlike(ours, length=False):
        yield unlike
    ours_by_name = _sizes(wanted)
    if not unlike_settings and any(ours_by_name.get(name) != size for name, size in _sizes(theirs).items()):
        differing = [name for name in vars(theirs.mask) if getattr(theirs.mask, name) != getattr(wanted.mask, name)]
        there, here = (
            ", ".join(f"model.mask.{name}={getattr(mask, name)}" for name in differing)
            for mask in (theirs.mask, wanted.mask)
        )
        yield f"has {there}, here it is {here}: give both the same"


def _sizes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in sketch(model, 3).named_parameters()}


def coupling_tokens(folder: Path) -> RowFormat:
    """The tokens of a finished coupling.

    Raises:
        ValueError: it is not there, unfinished, or a shard is missing or cut off.
    """
    plan = read_manifest(folder)["plan"]
    return RowFormat("", plan["length"], plan["vocab_size"], plan["vocab_size"], plan["mask_id"])


def coupling_misfit(theirs: RowFormat, ours: RowFormat) -> str | None:
    """What keeps a run from learning a coupling's pairs, if anything; a coupling does not know its tokenizer."""
    known = ours.vocab_size is not None and theirs.vocab_size is not None
    differing = [
        (name, there, here)
        for name, there, here in (
            ("vocabulary", theirs.vocab_size, ours.vocab_size),
            ("mask", theirs.mask_id, ours.mask_id),
            ("length", theirs.length, ours.length),
        )
        if there != here and (known or name == "length")
    ]
    if not differing:
        return None
    words = ", ".join(f"{name} {there}, the data {here}" for name, there, here in differing)
    return f"has {words}: make it again with this data.* configuration"


def check_inputs(config: Config) -> None:
    """Check what `inputs` names, against what is known of the data by now.

    Raises:
        ValueError, ProblemsError: something is missing, cut off or does not fit.
    """
    refuse(_input_problems(config))


def _input_problems(config: Config) -> Iterator[str]:
    inputs, ours = config.inputs, None
    if inputs.init or inputs.coupling:
        try:
            ours = row_format(config.data)
        except ValueError as error:
            yield str(error)
    if inputs.init:
        try:
            given = given_model(Path(inputs.init), "inputs.init", inputs.init_weights)
        except ValueError as error:
            yield str(error)
        else:
            for problem in misfits(given, config, ours) if ours else ():
                yield f"the model of inputs.init={inputs.init} {problem}"
    if not objective_of(config.objective).reads_coupling:
        return
    if not inputs.coupling:
        yield f"objective.kind={config.objective.kind} trains on a coupling: set inputs.coupling to its folder"
        return
    try:
        theirs = coupling_tokens(Path(inputs.coupling))
    except ValueError as error:
        yield str(error)
    else:
        if ours and (unlike := coupling_misfit(theirs, ours)):
            yield f"the coupling of inputs.coupling={inputs.coupling} {unlike}"


def check_same_data(before: dict[str, Any], config: DataConfig) -> None:
    """Check that a run that goes on has the settings of its data, before anything is packed for others.

    Args:
        before: the section data of the checkpoint to go on from.

    Raises:
        ValueError: settings differ that make other rows of any text, and these rows are not there.
    """
    changed = changed_data(before, config)
    trained = "embedded" in changed.get("data.tokenizer", ())
    if not trained and all(name.removeprefix("data.") in _PLACES for name in changed):
        return
    try:
        prepare(config, may_build=False)
    except NotPreparedError:
        raise ValueError(
            f"the run of this folder was made with {describe_changes(changed)}: give it again, or use another folder"
        ) from None


def changed_data(before: dict[str, Any], config: DataConfig) -> dict[str, tuple[Any, Any]]:
    """Settings of the section data that differ, before and now; where rows are kept is of no matter."""
    ours = {field.name: to_dict(config)[field.name] for field in fields(config) if meaning_of(field).shapes}
    return {
        f"data.{name}": (before[name], value)
        for name, value in ours.items()
        if name in before and before[name] != value
    }


def describe_changes(changed: dict[str, tuple[Any, Any]]) -> str:
    """Changed settings in a message."""
    return ", ".join(f"{name}={old} (now {new or 'empty'})" for name, (old, new) in changed.items())
