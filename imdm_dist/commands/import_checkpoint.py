"""Bring a published checkpoint of MDLM, SDTT or IMDM in, as a run that every other command reads.

Sizes, mask and vocabulary are read from the file; settings say what a file cannot. Foreign pickles are never run.
"""

from __future__ import annotations

import argparse

from imdm_dist.commands.arguments import add_overrides

EXAMPLES = """examples:
  imdm_dist import downloads/mdlm-owt --out runs/teacher --tokenizer gpt2_tokenizer
  imdm_dist import last.ckpt --out runs/teacher data.length=128 model.attention_soft_cap=50
Then, for instance: imdm_dist train runs/student inputs.init=runs/teacher ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="checkpoint file (.ckpt, .bin, .pt, .safetensors), or hub folder")
    parser.add_argument("--out", required=True, help="run folder to make; it must not exist yet")
    parser.add_argument(
        "--tokenizer",
        help="folder or hub name, as data.tokenizer (default: gpt2 or bert-base-uncased, by vocabulary)",
    )
    add_overrides(parser, "settings of model and data that the file does not say")


def run(arguments: argparse.Namespace) -> None:
    from imdm_dist.interop import import_checkpoint

    overrides = list(arguments.overrides)
    if arguments.tokenizer is not None:
        overrides.append(f"data.tokenizer={arguments.tokenizer}")
    print(import_checkpoint(arguments.path, arguments.out, overrides))
