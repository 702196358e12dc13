"""Preflight: checks all that a chain needs before anything starts, and says all problems at once.

It takes seconds: records and headers are read, and no weight. The last stage is checked as closely as the first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imdm_dist.chain.chain import Chain
from imdm_dist.chain.problems import StageProblems
from imdm_dist.chain.stage import Stage
from imdm_dist.data.row_format import RowFormat
from imdm_dist.planning.plan_text import gigabytes
from imdm_dist.problems import refuse


def preflight(chain: Chain, stages: Sequence[Stage], root: Path, world: int = 0, in_job: bool = False) -> None:
    """Check what stages need: text, tokenizers, models, couplings, evaluators, divisions, memory and disk.

    Args:
        world: processes that share a stage; 0 takes each stage's own resources.
        in_job: this is where the work will be done: its GPUs count.

    Raises:
        ValueError, ProblemsError: something is missing or does not fit: for each problem a line that names the
            stages, the cause and the remedy. Nothing has been written.
    """
    problems = StageProblems()
    needed = 0.0
    for stage in stages:
        rows = _check_inputs(chain, stage, problems)
        stage.check_machines(rows, world, in_job, problems)
        needed += stage.written_bytes(rows) if rows else 0.0
    problems.attempt("", check_folder, root, needed)
    refuse(problems.lines())


def check_agreement(chain: Chain, stages: Sequence[Stage]) -> None:
    """Check once more what stages start from, when the data are there and all of their tokens are known.

    Raises:
        ValueError, ProblemsError: as `preflight`.
    """
    problems = StageProblems()
    for stage in stages:
        _check_inputs(chain, stage, problems)
    refuse(problems.lines())


def _check_inputs(chain: Chain, stage: Stage, problems: StageProblems) -> RowFormat | None:
    """Check what a stage starts from; returns the tokens of its data, None where they are not to be had."""
    if not stage.made:
        stage.record(chain.by_name, problems)
        return None
    rows = problems.tokens(stage.name, stage.config.data)
    problems.add(stage.name, *stage.input_problems(rows, chain.by_name, problems))
    return rows


def check_folder(root: Path, needed: float, remedy: str = "name another folder with --root") -> None:
    """Check that runs can be written, and that there is room; nothing is left there.

    Args:
        needed: bytes.
        remedy: how to write elsewhere.

    Raises:
        ValueError: not so.
    """
    there = next(one for one in (root.absolute(), *root.absolute().parents) if one.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".room.", suffix=".tmp") as trial:
            trial.write(b"0" * 4096)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        raise ValueError(f"cannot write in {root} ({error.strerror}): {remedy}") from None
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"the runs will take {gigabytes(needed)} GB, {root} has {gigabytes(free)} GB left: make room, "
            f"lower train.keep_last, or {remedy}"
        )
