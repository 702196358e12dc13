"""Train the evaluator: a small causal language model that scores samples where there is no GPT-2 Large."""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded
from imdm_dist.config import Config, load_config

EPILOG = """examples:
  python tools/train_evaluator.py --out runs/evaluator
      on the embedded English
  python tools/train_evaluator.py --out runs/evaluator data.source=files data.train=train.txt data.valid=valid.txt
      on text of your own; with --config FILE the settings come from a YAML file, and those given here go over it
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file; its sections data and evaluator are used")
    parser.add_argument("--out", default="runs/evaluator", help="folder to write (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to train (default: cpu)")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 matrix products")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="settings, such as evaluator.steps=500")
    arguments = parser.parse_intermixed_args()
    config = load_config(Config, arguments.config, arguments.settings)
    from imdm_dist.data import prepare
    from imdm_dist.evaluation.causal_lm import train_evaluator
    from imdm_dist.evaluation.ngram import TrigramModel

    data = prepare(config.data)
    record = train_evaluator(
        config.evaluator, data.train, data.valid, arguments.out, arguments.device, arguments.autocast
    )
    trigram = TrigramModel.fit(data.train.tokens, data.train.vocab_size).perplexity(data.valid.tokens)
    print(f"{arguments.out}: validation perplexity {record['valid_ppl']:.2f} ({record['seconds']:.0f} s)")
    print(f"a trigram model of the same rows: {trigram:.2f}, over all positions, the first token included")


if __name__ == "__main__":
    guarded(main)
