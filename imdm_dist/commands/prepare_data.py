"""Read, tokenize and pack the text of a configuration, or find it done, and say what came out."""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_overrides
from imdm_dist.config import Config, load_config

EXAMPLES = """examples:
  imdm_dist prepare-data                                  the embedded English
  imdm_dist prepare-data --config my_run.yaml data.length=64
  imdm_dist prepare-data data.source=files data.train=train.txt data.valid=valid.txt data.root=my_texts"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="YAML file; its section data is used")
    parser.add_argument("--verify", action="store_true", help="also read every byte and compare the checksums")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.data import prepare

    data = prepare(load_config(Config, arguments.config, arguments.overrides).data)
    for split in (data.train, data.valid):
        if arguments.verify:
            split.verify()
        print(f"{split.path}: {split.rows:,} rows of {split.length}, {split.vocab_size:,} ids with the mask")
        if data.tokenizer is not None:
            print(f"  first row: {data.tokenizer.decode(split.take([0])[0])!r}")
