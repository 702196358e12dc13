"""A chain small enough for four processes on two cores, and what its jobs are compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from imdm_dist.config import ResourcesConfig
from imdm_dist.launch.submission import script
from tests.cluster.jobs import Cluster

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "tiny"
RANKS = ResourcesConfig(nodes=2, tasks_per_node=2, gpus_per_node=2, warning_s=20)
MODEL = {"size": "custom", "hidden_dim": 32, "n_blocks": 1, "n_heads": 2, "dropout": 0.0, "mask": {"noise_dim": 8}}
JOB = {"IMDM_HOME": str(ROOT), "IMDM_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def chain(home: Path, **base: dict[str, Any]) -> Path:
    """Write the chain's file and its text in `home`; `base` goes over the settings of all stages."""
    (home / "text.txt").write_text("".join(f"row {i} says {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(200)))
    text = [str(home / "text.txt")]
    infinite = {"model": {"mask": {"kind": "infinite"}}}
    data = {"source": "files", "train": text, "valid": text, "bpe_size": 300, "length": 12, "cache": str(home / "data")}
    settings: dict[str, dict[str, Any]] = {
        "data": data,
        "model": MODEL,
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"steps": 12, "global_batch": 8, "save_every": 10, "log_every": 2, "valid_rows": 16},
        "coupling": {"pairs": 32, "shards": 8, "steps": 16, "batch": 4},
        "evaluation": {"samples": 4, "steps": [2], "seeds": [1, 2]},
        "evaluator": {"hidden_dim": 32, "n_blocks": 1, "n_heads": 2, "steps": 3, "batch": 8},
        "resources": {"nodes": 2, "tasks_per_node": 2, "gpus_per_node": 2, "warning_s": 20},
    }
    sdtt = {"objective": {"kind": "sdtt", "rounds": 2, "steps_per_round": 6, "grid": 8}, "train": {"steps": 0}}
    one = {"resources": {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1}}
    stages = [
        {"name": "teacher", "kind": "train"},
        {"name": "sdtt", "kind": "train", "init": "teacher", "set": infinite | sdtt},
        {"name": "pairs", "kind": "coupling", "teacher": "sdtt", "set": {"resources": one["resources"] | {"array": 4}}},
        {
            "name": "redi",
            "kind": "train",
            "init": "sdtt",
            "coupling": "pairs",
            "set": infinite | {"objective": {"kind": "redi"}},
        },
        {"name": "judge", "kind": "evaluator"},
        {
            "name": "table",
            "kind": "evaluation",
            "evaluator": "judge",
            "coupling": "pairs",
            "models": {"A": "teacher", "B": "redi"},
        },
    ]
    for section, given in base.items():
        settings[section] |= given
    path = home / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump({"name": NAME, "base": settings, "stages": stages}, sort_keys=False))
    return path


def sbatch_options(resources: ResourcesConfig, one: bool = False) -> list[str]:
    """What a job with these resources asks for, but for its name and its log."""
    lines = script(resources.of_one_process() if one else resources, Path("run")).splitlines()
    given = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    return [option for option in given if not option.startswith(("--job-name", "--output"))]


def submit_stage(cluster: Cluster, chain: Path, stage: str, root: Path, *more: str) -> str:
    """Submit a job that makes a stage and what it starts from, as the scripts in slurm/ do; returns its id."""
    root.mkdir(parents=True, exist_ok=True)
    arguments: list[str | Path] = [ROOT / "slurm" / "stage.sh", chain, stage, "--root", root, *more]
    options = [option for option in sbatch_options(RANKS) if not option.startswith("--time")]
    return cluster.sbatch([*options, f"--output={root}/job-%j.log", *arguments], env=JOB, cwd=root)


def folder_of(root: Path, stage: str) -> Path:
    """The folder of a stage; there is one."""
    (found,) = (root / NAME).glob(f"{stage}-*")
    return found


def steps_done(root: Path, stage: str) -> int:
    """The last step in a run's record; 0 if it has not begun."""
    steps = [0]
    for path in (root / NAME).glob(f"{stage}-*/metrics.jsonl"):
        steps += [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
    return max(steps)


def shards_there(root: Path, stage: str = "pairs") -> int:
    """Shards of a coupling that are finished."""
    return len(list((root / NAME).glob(f"{stage}-*/shard-*.parquet")))


def trained(folder: Path) -> dict[str, str]:
    """Checksums of what the last checkpoint of a run holds: weights, averages and moments."""
    last = max(folder.glob("step-*"))
    files: dict[str, str] = json.loads((last / "state.json").read_text())["files"]
    return files


def shards(folder: Path) -> dict[str, bytes]:
    """The shards of a coupling by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}
