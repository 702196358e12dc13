"""Runs a chain on this machine, stage after stage.

A stage's folder is named by a hash of its settings and of what its inputs turned out to be. So a
stage whose settings or inputs change is made anew beside the old one, a stage that is whole is
kept, and a stage that was cut off goes on where it was. `stage.json`, written last, marks a whole
stage and records what it was made from.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdm_dist.config import InputsConfig, to_dict
from imdm_dist.coupling import Coupling, discard_damaged, verify
from imdm_dist.data import prepare
from imdm_dist.device import default_device
from imdm_dist.evaluation.causal_lm import find_causal_lm, train_evaluator
from imdm_dist.evaluation.evaluate import Candidate, evaluate
from imdm_dist.files import hash_json, read_json, sha256_file, write_json
from imdm_dist.parallel.environment import place_of_this_process
from imdm_dist.pipeline.chain import Chain, Stage
from imdm_dist.pipeline.rollouts import generate_coupling, worker_count
from imdm_dist.provenance import versions
from imdm_dist.training.checkpoint_files import newest_checkpoint
from imdm_dist.training.loop import train
from imdm_dist.training.setup import SHAPING_SETTINGS, total_steps
from imdm_dist.training.stop import EXIT_STOPPED

FORMAT = 1
"""Raised when the code comes to make something else from the same settings."""
MARK = "stage.json"
_SETTINGS = {
    "train": ("model", "objective", "optimizer", "inputs", "train.steps", *SHAPING_SETTINGS),
    "coupling": ("coupling",),
    "evaluator": ("evaluator", "engine.precision"),
    "evaluation": ("evaluation", "train.valid_rows"),
}
"""Settings that a kind of stage depends on; its data count by what they hold, not by what they are called."""


def run_chain(chain: Chain, root: Path | str, workers: int | None = None) -> dict[str, Path]:
    """Run what is missing of a chain.

    Args:
        root: folder of all runs; the chain gets a folder in it.
        workers: rollout processes for couplings, 1 or more; one a core or GPU if not given.

    Returns:
        Folder of every stage by name. The same is written to chain.json in the chain's folder.

    Raises:
        ValueError: a stage's settings or inputs do not fit, an evaluator is not to be found, or a stage failed; or a
            launcher started several processes.
    """
    home = Path(root) / chain.name
    if (ranks := place_of_this_process().world) > 1:
        raise ValueError(
            f"a chain runs in one process, this is one of {ranks}: start tools/train.py under the launcher"
        )
    worker_count(workers)  # what is wrong is said before anything runs
    for stage in chain.stages:
        if stage.evaluator and stage.evaluator not in (other.name for other in chain.stages):
            find_causal_lm(stage.evaluator)
    folders: dict[str, Path] = {}
    marks: dict[str, dict[str, Any]] = {}
    for stage in chain.stages:
        identity = stage_identity(stage, {name: marks[name]["digest"] for name in stage.inputs() if name in marks})
        folder = home / f"{stage.name}-{hash_json(identity)[:8]}"
        folders[stage.name] = folder
        marks[stage.name] = _whole(stage, folder) or _make(chain, stage, identity, folders, workers)
    write_json(home / "chain.json", {name: folder.name for name, folder in folders.items()})
    return folders


def stage_identity(stage: Stage, inputs: dict[str, str]) -> dict[str, Any]:
    """All that a stage's result depends on: settings, the data's content and digests of the stages it starts from."""
    data = prepare(stage.config.data)
    settings = to_dict(stage.config)
    kept: dict[str, Any] = {}
    for key in _SETTINGS[stage.kind]:
        section, _, name = key.partition(".")
        kept[key] = settings[section][name] if name else settings[section]
    return {
        "format": FORMAT,
        "kind": stage.kind,
        "settings": kept,
        "data": [data.train.fingerprint, data.valid.fingerprint],
        "inputs": inputs,
        "models": {name: inputs[model] for name, model in stage.models.items()},
        "evaluator": stage.evaluator if stage.evaluator not in inputs else "",
    }


def _whole(stage: Stage, folder: Path) -> dict[str, Any] | None:
    """The mark of a stage that is done and whose result is still what it was."""
    if not (folder / MARK).exists():
        return None
    mark = read_json(folder / MARK)
    try:
        found = _digest(stage, folder)
    except (OSError, ValueError) as error:
        found = str(error)
    if found != mark["digest"]:
        print(f"{stage.name}: made again, its result in {folder.name} is damaged ({found})", file=sys.stderr)
        if stage.kind == "coupling":
            discard_damaged(folder)
        return None
    print(f"{stage.name}: there already ({folder.name})", file=sys.stderr)
    return mark


def _make(
    chain: Chain, stage: Stage, identity: dict[str, Any], folders: dict[str, Path], workers: int | None
) -> dict[str, Any]:
    folder = folders[stage.name]
    print(f"{stage.name}: {'going on' if folder.exists() else 'starting'} ({folder.name})", file=sys.stderr)
    started = time.monotonic()
    _run(chain, stage, folders, workers)
    mark = {
        "name": stage.name,
        "identity": identity,
        "digest": _digest(stage, folder),
        "seconds_of_last_run": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    write_json(folder / MARK, mark)
    return mark


def _run(chain: Chain, stage: Stage, folders: dict[str, Path], workers: int | None) -> None:
    folder, config = folders[stage.name], stage.config
    if stage.kind == "train":
        inputs = InputsConfig(
            init=str(folders[stage.init]) if stage.init else "",
            init_weights=config.inputs.init_weights,
            coupling=str(folders[stage.coupling]) if stage.coupling else "",
        )
        if not train(replace(config, inputs=inputs), folder):
            raise SystemExit(EXIT_STOPPED)
    elif stage.kind == "coupling":
        generate_coupling(config, folders[stage.teacher], folder, workers)
    elif stage.kind == "evaluator":
        data = prepare(config.data)
        autocast = config.engine.precision != "fp32"
        train_evaluator(config.evaluator, data.train, data.valid, folder, default_device(), autocast)
    else:
        candidates = {name: _candidate(chain, stage, model, folders) for name, model in stage.models.items()}
        evaluator = folders.get(stage.evaluator, Path(stage.evaluator))
        evaluate(config, prepare(config.data), candidates, evaluator, folder)


def _candidate(chain: Chain, stage: Stage, model: str, folders: dict[str, Path]) -> Candidate:
    coupling = chain.stage(model).coupling or stage.coupling
    return Candidate(folders[model], Coupling.open(folders[coupling]).result_PL if coupling else None)


def _digest(stage: Stage, folder: Path) -> str:
    """Identity of a stage's result, worked out from its files.

    Raises:
        ValueError, OSError: the result is not whole.
    """
    if stage.kind == "train":
        found = newest_checkpoint(folder)
        if found is None or found.step < total_steps(stage.config):
            raise ValueError("its last checkpoint is missing")
        return hash_json(found.state["files"])
    if stage.kind == "coupling":
        return str(verify(folder)["digest"])
    return sha256_file(folder / ("model.safetensors" if stage.kind == "evaluator" else "result.json"))
