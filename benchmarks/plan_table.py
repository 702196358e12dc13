"""The table of docs/scaling.md: the largest micro-batch that is planned to fit, by model and hardware.

python benchmarks/plan_table.py
"""

from __future__ import annotations

from imdm_dist.config import Config, load_config
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.plan import Plan, build_plan

ROWS = [
    ("small", 1, 24), ("small", 8, 80), ("medium", 8, 24), ("medium", 8, 80),
    ("large", 1, 80), ("large", 8, 24), ("large", 8, 40), ("large", 8, 80),
]  # fmt: skip
COLUMNS = [(1, False), (2, False), (1, True), (2, True)]
"""Tensor-parallel ranks, recomputation."""
SETTINGS = [
    "data.tokenizer=gpt2",
    "data.length=1024",
    "model.mask.kind=infinite",
    "model.mask.noise_dim=2048",
    "objective.kind=redi",
    "train.global_batch=512",
    "engine.precision=bf16",
    "engine.zero_stage=1",
]


def largest(size: str, gpus: int, memory: int, tensor_parallel: int, recompute: bool) -> Plan | None:
    """The plan of the largest micro-batch up to 64 that fits."""
    hardware = Hardware(gpus=gpus, memory=memory * 1e9)
    for micro_batch in (64, 32, 16, 8, 4, 2, 1):
        engine = [f"engine.micro_batch={micro_batch}", f"engine.tensor_parallel={tensor_parallel}"]
        more = [f"model.size={size}", *engine, f"engine.recompute={str(recompute).lower()}"]
        plan = build_plan(load_config(Config, None, [*SETTINGS, *more]), hardware)
        if plan.fits:
            return plan
    return None


def main() -> None:
    print("| Model | GPUs | plain | tensor parallel 2 | recompute | both |\n|:---|:---|:---|:---|:---|:---|")
    for size, gpus, memory in ROWS:
        cells = []
        for tensor_parallel, recompute in COLUMNS:
            plan = largest(size, gpus, memory, tensor_parallel, recompute) if tensor_parallel <= gpus else None
            cells.append(f"{plan.micro_batch} ({plan.memory.peak / 1e9:.1f})" if plan else "")
        print(f"| {size} | {gpus} × {memory} GB | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
