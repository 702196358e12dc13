"""Read, tokenize and pack the text of a configuration, or find it done, and say what came out."""

from __future__ import annotations

import argparse

from imdm_dist.cli import guarded
from imdm_dist.config import Config, load_config

EPILOG = """examples:
  python tools/prepare_data.py                                  the embedded English
  python tools/prepare_data.py --config my_run.yaml data.length=64
  python tools/prepare_data.py data.source=files data.train=train.txt data.valid=valid.txt data.root=my_texts
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file; its section data is used")
    parser.add_argument("--verify", action="store_true", help="also read every byte and compare the checksums")
    parser.add_argument(
        "settings", nargs="*", default=[], metavar="key.sub=value", help="settings, such as data.length=64"
    )
    arguments = parser.parse_intermixed_args()
    from imdm_dist.data import prepare

    data = prepare(load_config(Config, arguments.config, arguments.settings).data)
    for split in (data.train, data.valid):
        if arguments.verify:
            split.verify()
        print(f"{split.path}: {split.rows:,} rows of {split.length}, {split.vocab_size:,} ids with the mask")
        if data.tokenizer is not None:
            print(f"  first row: {data.tokenizer.decode(split.take([0])[0])!r}")


if __name__ == "__main__":
    guarded(main)
