"""Measures the peak memory of real optimizer steps on the device at hand, with random rows in place of data.

Run it in a fresh process of its own, or as many as the run is to have (torchrun):

    python -m imdm_dist.planning.measure --vocab 8000 my_run.yaml engine.zero_stage=1

On a CPU it is the growth of the resident set, with an allocator that gives freed memory back at once; on a GPU
the peak of torch's allocator. Prints one line of JSON for each rank.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from imdm_dist.config import Config, load_config
from imdm_dist.data import Dataset, TokenFile
from imdm_dist.device import steady_allocator
from imdm_dist.error_boundary import guarded
from imdm_dist.model import Backbone, build_backbone
from imdm_dist.objectives.examples import slice_batch
from imdm_dist.objectives.objective import Objective, objective_of
from imdm_dist.parallel.topology import Topology, form_topology
from imdm_dist.training.setup import Run
from imdm_dist.training.state import build_state

STEPS = 2
"""Optimizer state exists from the first update on, so the second step shows the peak."""


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def random_run(config: Config, vocab_size: int, topology: Topology, folder: Path) -> tuple[Run, Backbone]:
    """A run on random rows, and its model; one on a coupling too, as its pairs take what other rows do."""
    part = slice_batch(config.train.global_batch, config.engine.micro_batch, topology.dp_rank, topology.dp)
    rows = np.random.default_rng(0).integers(0, vocab_size - 1, (64, config.data.length))
    file = TokenFile.write(
        folder / f"rows-{topology.rank}-{vocab_size}",
        rows,
        length=config.data.length,
        vocab_size=vocab_size,
        mask_id=vocab_size - 1,
        bos_id=None,
        eos_id=None,
        settings={},
    )
    model = build_backbone(config.model, vocab_size, vocab_size - 1)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    kind = objective_of(config.objective)
    examples = (Objective if kind.reads_coupling else kind).examples(config, part, file)
    data = Dataset(file, file, None)
    return Run(config, folder, data, part, examples, {}, shapes, last=STEPS, resume=None), model


def take_steps(config: Config, vocab_size: int, topology: Topology, folder: Path) -> None:
    """Build a run and take optimizer steps, as the train loop does."""
    run, model = random_run(config, vocab_size, topology, folder)
    state = build_state(run, model, topology)
    engine = state.engine
    for done in range(STEPS):
        for batch in run.examples.step(done):
            prepared = state.objective.prepare(batch, done).to(topology.device)
            engine.accumulate(lambda model, b=prepared: state.objective.loss(model, b))  # type: ignore[misc]
        engine.step(1e-4)
        state.follow(done + 1)
    engine.close()


def measure_steps(config: Config, vocab_size: int) -> dict[str, int]:
    """Peak memory of this rank: `baseline` before there is a model, and `peak` beyond it, bytes."""
    torch.set_flush_denormal(True)
    steady_allocator()
    topology = form_topology(config.engine.tensor_parallel, config.model)
    with tempfile.TemporaryDirectory() as name:
        # A first run of short rows and few tokens loads what is loaded on first use.
        take_steps(replace(config, data=replace(config.data, length=8)), 32, topology, Path(name))
        gc.collect()  # its engine refers to itself, and would be counted with the baseline
        if topology.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            baseline = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # restarts VmHWM
            baseline = resident("VmRSS")
        take_steps(config, vocab_size, topology, Path(name))
    peak = torch.cuda.max_memory_allocated() if topology.device.type == "cuda" else resident("VmHWM")
    return {"rank": topology.rank, "baseline": baseline, "peak": peak - baseline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, required=True, help="vocabulary size, the mask included")
    parser.add_argument("settings", nargs="*", help="a YAML file, then any key.sub=value")
    arguments = parser.parse_intermixed_args()
    path = arguments.settings[0] if arguments.settings and "=" not in arguments.settings[0] else None
    config = load_config(Config, path, arguments.settings[0 if path is None else 1 :])
    print(json.dumps(measure_steps(config, arguments.vocab)))


if __name__ == "__main__":
    guarded(main)
