"""The surroundings of every test: no network, few threads."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402  (the libraries read the variables above when they are imported)

torch.set_num_threads(1)  # these models are too small for more, and other processes may want the cores
