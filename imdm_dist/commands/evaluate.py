"""Evaluate models alike: validation PPL, and Gen. PPL, entropy and diversity of samples by step count."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from imdm_dist.commands.arguments import add_overrides
from imdm_dist.config import Config, load_over
from imdm_dist.files import check_name

EXAMPLES = """example:
  imdm_dist evaluate --model MDLM=runs/teacher --model IMDM=runs/student --evaluator runs/evaluator \\
      --out runs/table --reference runs/coupling evaluation.samples=1024 evaluation.steps=2,4,8"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=RUN",
        help="name in the table, and run; may be repeated",
    )
    parser.add_argument(
        "--evaluator", help="causal language model: a folder, or a hub name (gpt2-large); without one no Gen. PPL"
    )
    parser.add_argument("--out", required=True, help="folder of the result; it must not exist yet")
    parser.add_argument("--reference", help="coupling folder whose 8-grams count as copied")
    parser.add_argument("--config", help="YAML file of settings (default: the first model's data settings)")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.chain.stages.evaluation import check_evaluation
    from imdm_dist.coupling import Coupling
    from imdm_dist.data import prepare
    from imdm_dist.evaluation.evaluate import Candidate, evaluate
    from imdm_dist.training.inputs import given_config

    named: dict[str, Path] = {}
    for entry in arguments.model:
        name, found, path = entry.partition("=")
        if not found:
            raise ValueError(f"--model {entry} is no NAME=RUN: write for instance MDLM=runs/teacher")
        if name in named:
            raise ValueError(f"--model {entry}: there is a model {name} already, name each apart")
        named[check_name(name, "the name of a --model")] = Path(path)
    if Path(arguments.out).exists():
        raise ValueError(f"{arguments.out} exists: give another --out, results are not overwritten")
    base = replace(Config(), data=given_config(next(iter(named.values())), "--model").data)
    config = load_over(base, arguments.config, arguments.overrides)
    check_evaluation(config, named, arguments.evaluator, arguments.reference)
    data = prepare(config.data)
    check_evaluation(config, named, arguments.evaluator, arguments.reference)  # the tokens may be known only now
    reference = Coupling.open(arguments.reference).result_PL if arguments.reference else None
    candidates = {name: Candidate(path, reference) for name, path in named.items()}
    evaluate(config, data, candidates, arguments.evaluator, arguments.out)
    print((Path(arguments.out) / "table.md").read_text(encoding="utf-8"))
