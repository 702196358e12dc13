"""Sample text from a trained model in a few steps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from imdm_dist.config import EvaluationConfig
from imdm_dist.signals import interrupted

EXAMPLES = """examples:
  imdm_dist sample runs/student --steps 8 --samples 4
  imdm_dist sample runs/student --steps 4 --prompts prompts.txt --out samples.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps (default: 8)")
    parser.add_argument("--samples", type=int, default=4, help="sequences (default: 4)")
    parser.add_argument("--seed", type=int, default=42, help="sampling seed (default: 42)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="which weights (default: ema)")
    parser.add_argument(
        "--noise-policy",
        choices=("posterior", "fixed", "fresh"),
        default="posterior",
        help="mask noise from step to step: redrawn by the posterior (default), kept, or always new",
    )
    parser.add_argument("--prompts", help="text file, one prompt a line, to be completed")
    parser.add_argument("--out", help="also write the samples, tokens included, to this .jsonl file")


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.checkpoint.model import load_model
    from imdm_dist.data.prompts import read_prompts
    from imdm_dist.device import default_device
    from imdm_dist.evaluation.sampling import draw_samples
    from imdm_dist.files import publish_file

    loaded = load_model(arguments.model, arguments.weights)
    model = loaded.model.to(default_device())
    config = EvaluationConfig(samples=arguments.samples, noise_policy=arguments.noise_policy)
    length, tokenizer = loaded.length, loaded.tokenizer()
    prompts_PL = None
    if arguments.prompts:
        if tokenizer is None:
            raise ValueError("--prompts needs text: the synthetic language has no tokenizer")
        prompts_PL = read_prompts(arguments.prompts, tokenizer, length)
    with interrupted(lambda: "no sample is kept"):
        tokens_BL = draw_samples(model, config, length, arguments.steps, arguments.seed, prompts_PL).tolist()
    texts = [tokenizer.decode(row) if tokenizer else " ".join(map(str, row)) for row in tokens_BL]
    if arguments.out:
        about = {name: getattr(arguments, name) for name in ("steps", "seed", "weights", "noise_policy")}
        about |= {"model": loaded.digest, "draw_precision": "float64"}
        with publish_file(Path(arguments.out)) as aside:
            lines = [json.dumps({"text": t, "tokens": r, **about}) for t, r in zip(texts, tokens_BL, strict=True)]
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n\n".join(texts))
