"""Every number of a small chain, hashed: what a change of structure must leave bit for bit as it was.

    python -m tests.golden_chain --keep before.json       # at the old commit
    python -m tests.golden_chain --compare before.json    # at the new one, on the same machine

The chain goes through the commands that users type: teachers with each kind of mask, SDTT, couplings, ReDi, an
evaluator and a table in one process, then the same training in two processes cut by ZeRO and by tensor parallelism, and
a run with its moments. Losses, gradient norms, tensors of checkpoints, columns of shards, samples and figures are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
BASE = """
base:
  data: {length: 16, cache: CACHE}
  model: {size: custom, hidden_dim: 32, n_blocks: 2, n_heads: 2, mask: {kind: infinite, noise_dim: 16}}
  optimizer: {lr: 1e-3, warmup_steps: 2, ema_decay: 0.9, schedule: cosine}
  engine: {micro_batch: 4, loss_chunk_rows: 32}
  train: {global_batch: 16, log_every: 1, save_every: 4, valid_every: 6, valid_rows: 32}
  coupling: {pairs: 24, shards: 3, steps: 16, batch: 8}
  evaluation: {samples: 8, steps: [2, 4], seeds: [1, 2], batch: 8, valid_draws: 2}
  evaluator: {hidden_dim: 32, n_blocks: 1, n_heads: 2, steps: 10, batch: 8}
"""
SDTT = "objective: {kind: sdtt, rounds: 2, steps_per_round: 4, grid: 16"
WHOLE = f"""name: whole
{BASE}
stages:
  - {{name: teacher, kind: train, set: {{train: {{steps: 12}}}}}}
  - name: finite
    kind: train
    set: {{train: {{steps: 4}}, model: {{attention_soft_cap: 20, mask: {{kind: finite, n_states: 8}}}}}}
  - {{name: single, kind: train, set: {{train: {{steps: 4}}, model: {{mask: {{kind: single}}}}}}}}
  - {{name: gaussian, kind: train, set: {{train: {{steps: 4}}, model: {{mask: {{law: gaussian, scale: 0.5}}}}}}}}
  - {{name: sdtt, kind: train, init: teacher, set: {{{SDTT}}}}}}}
  - {{name: forward, kind: train, init: teacher, set: {{{SDTT}, divergence: forward_kl, noise_policy: posterior}}}}}}
  - {{name: fresh, kind: train, init: teacher, set: {{{SDTT}, divergence: mse, noise_policy: fresh}}}}}}
  - {{name: pairs, kind: coupling, teacher: sdtt}}
  - {{name: plain, kind: coupling, teacher: sdtt, set: {{coupling: {{kind: plain, noise_policy: fixed}}}}}}
  - {{name: redi, kind: train, init: sdtt, coupling: pairs, set: {{train: {{steps: 6}}, objective: {{kind: redi}}}}}}
  - name: redrawn
    kind: train
    init: sdtt
    coupling: plain
    set: {{train: {{steps: 6}}, objective: {{kind: redi, redraw_noise: true}}}}
  - {{name: judge, kind: evaluator}}
  - {{name: table, kind: evaluation, models: {{MDLM: teacher, SDTT: sdtt, ReDi: redi}}, evaluator: judge}}
"""
PARTS = f"""name: PARTS
{BASE}
stages:
  - {{name: teacher, kind: train, set: {{train: {{steps: 6}}}}}}
  - {{name: sdtt, kind: train, init: teacher, set: {{{SDTT}}}}}}}
  - {{name: pairs, kind: coupling, teacher: sdtt}}
  - {{name: redi, kind: train, init: sdtt, coupling: pairs, set: {{train: {{steps: 4}}, objective: {{kind: redi}}}}}}
"""
DIVISIONS = {"zero1": ("zero_stage=1",), "zero3": ("zero_stage=3",), "tp": ("tensor_parallel=2", "zero_stage=2")}
METRICS = "table/evaluation.metrics=[gen_ppl, entropy, distinct, copied, valid_ppl, trigram, evaluator]"
"""What every table had before a setting said so."""
FIGURES = ("loss", "grad_norm", "lr", "valid_ppl_raw", "round", "dt")


def main() -> None:
    parser = argparse.ArgumentParser(description="Hash every number of a small chain.")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the hashes")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with the hashes of another commit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = dict(run(Path(folder)))
    print(f"{len(found)} hashes")
    if arguments.keep:
        arguments.keep.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.compare:
        before = json.loads(arguments.compare.read_text())
        wrong = [name for name in sorted(before.keys() | found) if before.get(name) != found.get(name)]
        print("\n".join(f"differs: {name}" for name in wrong) or "all are as before")
        sys.exit(bool(wrong))


def run(folder: Path) -> Iterator[tuple[str, str]]:
    """Run all, and give the hash of each number by name."""
    runs = folder / "runs"
    _chain(folder, "whole", WHOLE, ["tools/run_chain.py"], ["--workers", "1", METRICS])
    for name, settings in DIVISIONS.items():
        overrides = [f"engine.{setting}" for setting in settings]
        tool = ["tools/pipeline.py", "run"]
        _chain(folder, name, PARTS.replace("PARTS", name), tool, ["--local", "--processes", "2", *overrides])
    teacher = next((runs / "whole").glob("teacher-*"))
    given = json.loads((teacher / "config.json").read_text())["config"]
    (folder / "train.yaml").write_text(json.dumps({k: v for k, v in given.items() if k in ("data", "model")}))
    given_too = ["train.steps=5", "train.global_batch=8", "engine.zero_stage=1", "optimizer.warmup_steps=2"]
    _tool(["tools/train.py", str(runs / "run" / "moments"), "--config", str(folder / "train.yaml"), *given_too])
    for path in sorted(runs.rglob("*")):
        stage = path.relative_to(runs).parts[1].partition("-")[0] if len(path.relative_to(runs).parts) > 1 else ""
        name = f"{path.relative_to(runs).parts[0]}/{stage}/{path.name}"
        if path.suffix == ".safetensors":
            step = path.parent.name if path.parent.name.startswith("step-") else ""
            tensors = load_file(path)
            yield from ((f"{name}/{step}/{key}", _hash(tensors[key])) for key in sorted(tensors))
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            yield from ((f"{name}/{key}", _hash(repr(table[key].to_pylist()))) for key in table.column_names)
        elif path.suffix == ".npy":
            yield name, _hash(np.load(path))
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for key in FIGURES:
                yield f"{name}/{key}", _hash(repr([line[key] for line in lines if key in line]))
        elif path.name == "table.md":
            yield name, _hash(path.read_text())


def _chain(folder: Path, name: str, text: str, tool: list[str], settings: list[str]) -> None:
    chain = folder / f"{name}.yaml"
    chain.write_text(text.replace("CACHE", str(folder / "data")))
    _tool([*tool, str(chain), "--root", str(folder / "runs"), *settings])


def _tool(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


def _hash(value: Any) -> str:
    raw = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


if __name__ == "__main__":
    main()
