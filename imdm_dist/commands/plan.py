"""Print what a run needs before it is started: parameters, memory of a rank, work, time, and the size of a coupling.

It needs no GPU, reads no data and makes no model. Of a chain, every stage that trains or rolls out is planned.
"""

from __future__ import annotations

import argparse
import json

from imdm_dist.commands.arguments import add_file_and_overrides, file_and_overrides

EXAMPLES = """examples:
  imdm_dist plan configs/embedded.yaml
  imdm_dist plan model.size=large data.tokenizer=gpt2 data.length=1024 model.mask.kind=infinite \\
      model.mask.noise_dim=2048 engine.precision=bf16 engine.zero_stage=1 engine.micro_batch=8 --gpus 16
  imdm_dist plan configs/embedded_chain.yaml --gpus 8 --gpu-memory 24 --peak-tflops 165 --pairs 100000
It prints the first settings that would fit if these do not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_and_overrides(parser)
    parser.add_argument("--gpus", type=int, default=1, help="GPUs in all, one a rank (default: 1)")
    parser.add_argument("--gpu-memory", type=float, default=80.0, help="GB (10^9 bytes) of each (default: 80)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of one machine (default: 8)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (default: 0.4)")
    parser.add_argument("--peak-tflops", type=float, help="peak of one GPU (default: 989, H100 in bf16; cpu: 0.1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: ranks are processes on CPUs")
    parser.add_argument("--pairs", type=int, help="pairs of the coupling (default: coupling.pairs)")
    parser.add_argument("--vocab", type=int, help="vocabulary size, mask included (default: from data.tokenizer)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.chain.stage_plans import plan_stages, stages_json, stages_text
    from imdm_dist.planning.hardware import Hardware

    default = {"cuda": 989.0, "cpu": 0.1}[arguments.device]
    peak = default if arguments.peak_tflops is None else arguments.peak_tflops
    hardware = Hardware(
        gpus=arguments.gpus,
        memory=arguments.gpu_memory * 1e9,
        gpus_per_node=arguments.gpus_per_node,
        mfu=arguments.mfu,
        peak_flops=peak * 1e12,
        device=arguments.device,
    )
    path, overrides = file_and_overrides(arguments.settings)
    plans = plan_stages(path, overrides, hardware, arguments.vocab, arguments.pairs)
    print(json.dumps(stages_json(plans), indent=2) if arguments.json else stages_text(plans).rstrip("\n"))
