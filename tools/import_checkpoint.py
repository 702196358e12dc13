"""Bring a published checkpoint of MDLM, SDTT or IMDM in, as a run that every other tool reads.

Sizes, mask and vocabulary are read from the file; settings say what a file cannot. Foreign pickles are never run.
"""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded

EXAMPLE = """examples:
  python tools/import_checkpoint.py downloads/mdlm-owt --out runs/teacher --tokenizer gpt2_tokenizer
  python tools/import_checkpoint.py last.ckpt --out runs/teacher data.length=128 model.attention_soft_cap=50
Then, for instance: python tools/train.py runs/student inputs.init=runs/teacher ..."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", help="checkpoint file (.ckpt, .bin, .pt, .safetensors), or hub folder")
    parser.add_argument("--out", required=True, help="run folder to make; it must not exist yet")
    parser.add_argument(
        "--tokenizer",
        help="folder or hub name, as data.tokenizer (default: gpt2 or bert-base-uncased, by vocabulary)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key.sub=value",
        help="settings of model and data that the file does not say",
    )
    arguments = parser.parse_intermixed_args()
    from imdm_dist.interop import import_checkpoint

    overrides = list(arguments.overrides)
    if arguments.tokenizer is not None:
        overrides.append(f"data.tokenizer={arguments.tokenizer}")
    print(import_checkpoint(arguments.path, arguments.out, overrides))


if __name__ == "__main__":
    guarded(main)
