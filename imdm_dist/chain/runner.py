"""Makes what is missing of a chain, stage after stage; what was cut off goes on where it was."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imdm_dist.chain.chain import Chain, Stage
from imdm_dist.chain.identity import result_digest
from imdm_dist.chain.preflight import check_agreement, preflight
from imdm_dist.chain.remembered import remember
from imdm_dist.chain.rollouts import worker_count
from imdm_dist.chain.survey import MARK, Found, look, survey
from imdm_dist.chain.work import work
from imdm_dist.checkpoint.retain import discard_broken
from imdm_dist.coupling import discard_damaged
from imdm_dist.data import prepare
from imdm_dist.files import write_json
from imdm_dist.parallel.environment import place_of_this_process
from imdm_dist.provenance import versions
from imdm_dist.signals import interrupted

Worker = Callable[[Stage, Mapping[str, Path]], None]
"""Does a stage in the folder of its name; in this process, or by starting others."""


def run_chain(chain: Chain, root: Path | str, workers: int | None = None) -> dict[str, Path]:
    """Run what is missing of a chain, in this process.

    Args:
        root: folder of all runs; the chain gets a folder in it.
        workers: rollout processes for couplings, 1 or more; one a core or GPU if not given.

    Returns:
        Folder of every stage by name. The same is written to chain.json in the chain's folder.

    Raises:
        ValueError, ProblemsError: a stage's settings or inputs do not fit, or a stage failed; or a launcher started
            several processes.
    """
    if (ranks := place_of_this_process().world) > 1:
        raise ValueError(
            f"a chain runs in one process, this is one of {ranks}: start tools/train.py under the launcher, "
            "or the chain by tools/pipeline.py"
        )
    worker_count(workers)  # what is wrong is said before anything runs
    found = survey(chain, Path(root) / chain.name, quick=True)
    todo = [stage for stage in chain.stages if found[stage.name].state != "whole"]
    preflight(chain, todo, Path(root), world=1, in_job=True)
    remember(Path(root) / chain.name, chain.overrides)
    prepare_data(chain, todo)
    return make_stages(chain, chain.stages, root, lambda stage, folders: work(chain, stage, folders, workers))


def prepare_data(chain: Chain, stages: Sequence[Stage]) -> None:
    """Pack the text of stages, so that they need not, and check what was not known of their tokens before.

    Raises:
        ValueError, ProblemsError: text is missing or wrong, or what a stage starts from does not fit it.
    """
    for stage in stages:
        if stage.kind != "given":
            prepare(stage.config.data)
    check_agreement(chain, stages)


def make_stages(
    chain: Chain, stages: Sequence[Stage], root: Path | str, worker: Worker, only: bool = False
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
        found = look(chain, stage, home, digests)
        if found.folder is None or (stage.kind == "given" and found.state != "whole"):
            raise ValueError(f"stage {stage.name} {found.why}")
        if only and stage is not stages[-1] and found.state != "whole":
            raise ValueError(
                f"stage {stages[-1].name} starts from {stage.name}, which is {found.state} ({found.why}): "
                "tools/pipeline.py run makes it"
            )
        folders[stage.name] = found.folder
        digests[stage.name] = found.digest if found.state == "whole" else _make(found, folders, worker)
        if found.state == "whole":
            print(f"{stage.name}: there already ({found.folder.name})", file=sys.stderr)
    if len(stages) == len(chain.stages):
        write_json(home / "chain.json", {name: folder.name for name, folder in folders.items()})
    return folders


def _make(found: Found, folders: Mapping[str, Path], worker: Worker) -> str:
    """Make a stage and mark it; returns its digest."""
    stage, folder, identity = found.stage, found.folder, found.identity
    assert folder is not None and identity is not None
    if found.state == "damaged":
        print(f"{stage.name}: made again, {found.why}", file=sys.stderr)
        if stage.kind == "coupling":
            discard_damaged(folder)
        if stage.kind == "train":
            discard_broken(folder)  # a finished stage has one alone: without it training begins anew
    else:
        word = "going on" if found.state == "half done" else f"starting, {found.why}"
        print(f"{stage.name}: {word} ({folder.name})", file=sys.stderr)
    started = time.monotonic()
    with interrupted(lambda: f"stage {stage.name} is not finished, what is whole is kept"):
        worker(stage, folders)
    digest = result_digest(stage, folder)
    data = prepare(stage.config.data)
    mark: dict[str, Any] = {
        "name": stage.name,
        "identity": identity,
        "digest": digest,
        # Beside this folder, but for what was given.
        "inputs": {name: _from(folder.parent, folders[name]) for name in identity["inputs"]},
        "text": {"train": data.train.settings | data.train.origin, "valid": data.valid.settings | data.valid.origin},
        "seconds_of_last_run": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    write_json(folder / MARK, mark)
    return digest


def _from(home: Path, folder: Path) -> str:
    return folder.name if folder.parent == home else str(folder)
