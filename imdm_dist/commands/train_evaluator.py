"""Train the evaluator: a small causal language model that scores samples where there is no GPT-2 Large."""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_overrides
from imdm_dist.config import Config, load_config

EXAMPLES = """examples:
  imdm_dist train-evaluator --out runs/evaluator
      on the embedded English
  imdm_dist train-evaluator --out runs/evaluator data.source=files data.train=train.txt data.valid=valid.txt
      on text of your own; with --config FILE the settings come from a YAML file, and those given here go over it"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="YAML file; its sections data and evaluator are used")
    parser.add_argument("--out", default="runs/evaluator", help="folder to write (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to train (default: cpu)")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 matrix products")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    config = load_config(Config, arguments.config, arguments.overrides)
    from imdm_dist.data import prepare
    from imdm_dist.evaluation.causal_lm import train_evaluator
    from imdm_dist.evaluation.held_out_perplexity import perplexities
    from imdm_dist.evaluation.kneser_ney import TrigramModel
    from imdm_dist.evaluation.result import format_cell

    data = prepare(config.data)
    record = train_evaluator(
        config.evaluator, data.train, data.valid, arguments.out, arguments.device, arguments.autocast
    )
    trigram = TrigramModel.fit(data.train.tokens, data.train.vocab_size)
    of_trigram = perplexities(trigram, data.valid, data.valid.rows).to_dict()
    # An evaluator of an earlier version has no figure over text tokens.
    ours, theirs = format_cell(record.get("valid_ppl_text"), 4), format_cell(of_trigram["text"]["ppl"], 4)
    print(f"{arguments.out}: validation perplexity over text tokens {ours}, a trigram's {theirs}")
    ours, theirs = format_cell(record["valid_ppl"], 4), format_cell(of_trigram["all"]["ppl"], 4)
    print(f"over all tokens but the first {ours}, the trigram's over all {theirs} ({record['seconds']:.0f} s)")
