"""Who trains and who reads what was trained: the second needs nothing of the first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import importlib, sys, types
# The package of chains trains, so its folder stands in for it: what counts is the module itself.
sys.modules["imdm_dist.chain"] = chain = types.ModuleType("imdm_dist.chain")
chain.__path__ = ["imdm_dist/chain"]
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""
READERS = [
    "imdm_dist.evaluation.evaluate",
    "imdm_dist.evaluation.sampling",
    "imdm_dist.coupling.generate",
    "imdm_dist.chain.rollouts",
    "imdm_dist.interop.importing",
    "imdm_dist.checkpoint.model",
    "imdm_dist.checkpoint.write",
]


def test_models_are_read_without_the_room_that_trains_them() -> None:
    command = [sys.executable, "-c", PROGRAM, *READERS]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(READERS) <= set(loaded)
    assert not [name for name in loaded if name.startswith("imdm_dist.training") or name == "deepspeed"]
