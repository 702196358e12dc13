"""Runs a chain: makes the missing stages, one after the other.

It is idempotent: what is whole is kept, and what was cut off goes on where it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from imdm_dist.chain.chain import Chain, save_overrides
from imdm_dist.chain.preflight import check_agreement, preflight
from imdm_dist.chain.rollouts import worker_count
from imdm_dist.chain.stage import Stage
from imdm_dist.chain.survey import COMPLETION, StageState, stage_state, survey
from imdm_dist.data import prepare
from imdm_dist.files import write_json
from imdm_dist.parallel.environment import this_process
from imdm_dist.signals import interrupted, leaving_at_signals
from imdm_dist.versions import versions

Executor = Callable[[Stage, Mapping[str, Path]], None]
"""Executes a stage in the folder of its name; in this process, or by starting others."""


def run_chain(
    chain: Chain,
    root: Path | str,
    workers: int | None = None,
    stages: Sequence[Stage] | None = None,
    only: bool = False,
) -> dict[str, Path]:
    """Run what is missing of a chain, in this process.

    Args:
        root: folder of all runs; the chain gets a folder in it.
        workers: rollout processes for couplings, 1 or more; one a core or GPU if not given.
        stages: some of its stages, each with all that it starts from; all if not given.
        only: make the last one alone; refuse if what it starts from is not whole.

    Returns:
        Folder of every stage by name. The same is written to chain.json in the chain's folder.

    Raises:
        ValueError, ProblemsError: a stage's settings or inputs do not fit, or a stage failed; or a launcher started
            several processes.
    """
    if (ranks := this_process().world) > 1:
        raise ValueError(
            f"a chain runs in one process, this is one of {ranks}: start imdm_dist train under the launcher, "
            "or the chain by imdm_dist run --processes N"
        )
    worker_count(workers)  # what is wrong is said before anything runs
    stages = chain.stages if stages is None else stages
    begin(chain, stages, Path(root), only, world=1)
    return make_stages(chain, stages, root, lambda stage, folders: execute(chain, stage, folders, workers), only)


def begin(chain: Chain, stages: Sequence[Stage], root: Path, only: bool, world: int) -> None:
    """Check all that is missing of some stages (see `preflight`), keep the chain's overrides, and pack the text."""
    home = root / chain.name
    states = survey(chain, home, quick=True)
    todo = [stage for stage in stages if states[stage.name].state != "whole"]
    todo = todo[-1:] if only else todo
    preflight(chain, todo, root, world, in_job=True)
    if chain.overrides or not only:  # the job of one stage of a submitted chain has none: its settings are resolved
        save_overrides(home, chain.overrides)
    prepare_data(chain, todo)


def execute(chain: Chain, stage: Stage, folders: Mapping[str, Path], workers: int | None = None) -> None:
    """Execute a stage, or this process's part of it; arguments and errors are those of `Stage.execute`."""
    with nullcontext() if stage.processes == "together" else leaving_at_signals():
        stage.execute(folders, chain.by_name, workers)


def prepare_data(chain: Chain, stages: Sequence[Stage]) -> None:
    """Pack the text of stages, so that they need not, and check what was not known of their tokens before.

    Raises:
        ValueError, ProblemsError: text is missing or wrong, or what a stage starts from does not fit it.
    """
    for stage in stages:
        if stage.made:
            prepare(stage.config.data)
    check_agreement(chain, stages)


def make_stages(
    chain: Chain, stages: Sequence[Stage], root: Path | str, execute: Executor, only: bool = False
) -> dict[str, Path]:
    """Make what is missing of some stages that follow each other; see `run_chain`.

    Args:
        stages: each with all that it starts from.
        only: make the last one alone.

    Raises:
        ValueError, OSError: a stage's settings or inputs do not fit, or its work failed.
        SystemExit: it was stopped in good order.
    """
    home = Path(root) / chain.name
    folders: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for stage in stages:
        found = stage_state(chain, stage, home, digests)
        if found.folder is None or (found.state != "whole" and not stage.made):
            raise ValueError(f"stage {stage.name} {found.why}")
        if only and stage is not stages[-1] and found.state != "whole":
            raise ValueError(
                f"stage {stages[-1].name} starts from {stage.name}, which is {found.state} ({found.why}): "
                "imdm_dist run makes it"
            )
        folders[stage.name] = found.folder
        digests[stage.name] = found.digest if found.state == "whole" else _make(found, folders, execute)
        if found.state == "whole":
            print(f"{stage.name}: there already ({found.folder.name})", file=sys.stderr)
    if len(stages) == len(chain.stages):
        write_json(home / "chain.json", {name: folder.name for name, folder in folders.items()})
    return folders


def _make(found: StageState, folders: Mapping[str, Path], execute: Executor) -> str:
    """Make a stage and write its completion record; returns its digest."""
    stage, folder, identity = found.stage, found.folder, found.identity
    assert folder is not None and identity is not None
    if found.state == "damaged":
        print(f"{stage.name}: made again, {found.why}", file=sys.stderr)
        stage.discard_damaged(folder)
    else:
        word = "going on" if found.state == "half done" else f"starting, {found.why}"
        print(f"{stage.name}: {word} ({folder.name})", file=sys.stderr)
    started = time.monotonic()
    with interrupted(lambda: f"stage {stage.name} is not finished, what is whole is kept"):
        execute(stage, folders)
    digest = stage.digest(folder)
    data = prepare(stage.config.data)
    record: dict[str, Any] = {
        "name": stage.name,
        "identity": identity,
        "digest": digest,
        # Beside this folder, but for what was given.
        "inputs": {name: _from(folder.parent, folders[name]) for name in identity["inputs"]},
        "text": {"train": data.train.settings | data.train.origin, "valid": data.valid.settings | data.valid.origin},
        "seconds_of_last_run": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    write_json(folder / COMPLETION, record)
    return digest


def _from(home: Path, folder: Path) -> str:
    return folder.name if folder.parent == home else str(folder)
