"""The evaluator: a small GPT-2 trained on our own token rows, for machines that have no GPT-2 Large.

Its perplexities rank models trained on the same tokens; they are not comparable with GPT-2 Large's.

Shape suffixes: B rows of a batch, L length.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from imdm_dist import hub
from imdm_dist.config.evaluation import EvaluatorConfig
from imdm_dist.config.setting import require
from imdm_dist.data.row_order import RowOrder
from imdm_dist.data.token_file import TokenFile
from imdm_dist.device import few_kernels
from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.files import (
    hash_json,
    publish_dir,
    read_record,
    refuse_lfs_pointers,
    refuse_no_objects,
    sha256_file,
    write_json,
)
from imdm_dist.finite import check_finite
from imdm_dist.problems import first_line
from imdm_dist.signals import interrupted
from imdm_dist.versions import versions

RECORD = "evaluator.json"
WEIGHTS = "model.safetensors"
_WARM_UP_SHARE = 0.05
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1
_CLIP = 1.0


def data_tokens(data: TokenFile) -> list[Any]:
    """What rows must have in common with an evaluator's to be scored by it."""
    return [data.settings.get("tokenizer"), data.vocab_size, data.mask_id]


def evaluator_key(config: EvaluatorConfig, data: TokenFile, autocast: bool) -> str:
    """Hash of what a trained evaluator's weights depend on."""
    return hash_json({"config": asdict(config), "data": data.fingerprint, "autocast": autocast})


def finished_evaluator(folder: Path | str, key: str) -> dict[str, Any] | None:
    """The record of the evaluator in `folder` if it is whole and was made from what `key` stands for."""
    record: dict[str, Any] | None = read_record(Path(folder) / RECORD, key=str, weights_sha256=str)
    if record is None or record["key"] != key:
        return None
    weights = Path(folder) / WEIGHTS
    return record if weights.exists() and sha256_file(weights) == record["weights_sha256"] else None


def train_evaluator(
    config: EvaluatorConfig,
    data: TokenFile,
    valid: TokenFile,
    folder: Path | str,
    device: torch.device | str = "cpu",
    autocast: bool = False,
) -> dict[str, Any]:
    """Train a GPT-2 on token rows and publish it, whole or not at all.

    AdamW, linear warm-up over the first 5 % of the steps, cosine decay to 0. The vocabulary is the data's (mask
    included, which it never sees), so samples are scored without re-tokenising. An evaluator that was already made
    from the same settings and data is left as it is.

    Args:
        data, valid: rows to train and to validate on, of one length.
        folder: where the model (transformers format) and evaluator.json go.
        autocast: bfloat16 matrix products, on fp32 weights; fast on recent CPUs and GPUs.

    Returns:
        The content of evaluator.json: key, config, valid_ppl (tokens 2 to L of every row), valid_ppl_text (text tokens:
        what compares with other models), data fingerprints, seconds, versions.

    Raises:
        ValueError: rows of fewer than two tokens.
    """
    require(data.length >= 2, f"rows of {data.length} token teach nothing: set data.length to 2 or more")
    assert (data.length, data.vocab_size) == (valid.length, valid.vocab_size), "training and validation rows differ"
    key = evaluator_key(config, data, autocast)
    record = finished_evaluator(folder, key)
    if record is not None:
        return record
    require(
        not Path(folder).exists() or (Path(folder) / RECORD).exists() or not any(Path(folder).iterdir()),
        f"{folder} exists and holds no evaluator: name a folder of its own",
    )
    few_kernels()
    device = torch.device(device)
    with interrupted(lambda: f"nothing is kept of the evaluator in {folder}, its training begins anew"):
        started = time.monotonic()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            lm = _gpt2(config, data).to(device)
            _fit(lm, config, data, device, autocast)
        check_finite(lm.named_parameters(), "the evaluator", "its training diverged; lower evaluator.lr")
        lm.eval()
        scored = perplexities(lm, valid, valid.rows).to_dict()
        record = {
            "key": key,
            "config": asdict(config),
            "parameters": sum(weight.numel() for weight in lm.parameters()),
            "valid_ppl": scored["all"]["ppl"],
            "valid_ppl_text": scored["text"]["ppl"],
            "valid_rows": valid.rows,
            "data": data.fingerprint,
            "tokens": data_tokens(data),
            "valid": valid.fingerprint,
            "autocast": autocast,
            "seconds": round(time.monotonic() - started, 1),
            "versions": versions(),
        }
        with publish_dir(folder) as aside:
            lm.save_pretrained(aside)
            record["weights_sha256"] = sha256_file(aside / WEIGHTS)
            write_json(aside / RECORD, record)
    return record


def load_causal_lm(folder_or_name: Path | str, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A causal language model in eval mode, float32.

    Args:
        folder_or_name: a folder that transformers loads, or a hub name such as gpt2-large where there is a network.

    Raises:
        ValueError: there is no such folder or name, it holds no causal language model, or one of whose weights some are
            not finite.
    """
    name = str(folder_or_name)
    read = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    try:
        if is_folder(name):
            refuse_lfs_pointers(name)
            refuse_no_objects(Path(name) / "config.json")
        lm = read(name, local_files_only=True) if is_folder(name) else hub.load(read, name)
    except Exception as error:  # readers of weights raise what they like for a file that is damaged
        raise unusable(name, error) from None
    remedy = "it gives no finite probabilities; train it again, or name another"
    check_finite(lm.named_parameters(), f"evaluator {name}", remedy)
    lm = lm.eval().to(device)
    with torch.inference_mode():
        logits = lm(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device)).logits
    if not logits.logsumexp(-1).isfinite().all():
        raise ValueError(f"evaluator {name} {remedy.removeprefix('it ')}")
    return lm


def is_folder(name: str) -> bool:
    """Whether `name` is a folder and not a hub name; ValueError if it can be neither."""
    if not Path(name).is_dir() and not hub.is_hub_name(name):
        raise ValueError("there is no such folder")
    return Path(name).is_dir()


def unusable(name: str, error: Exception) -> ValueError:
    """What to say of an evaluator that does not load."""
    return ValueError(
        f"evaluator {name} cannot be loaded ({first_line(error)}): train one with imdm_dist train-evaluator or name "
        "another"
    )


def _gpt2(config: EvaluatorConfig, data: TokenFile) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=data.vocab_size,
            n_positions=data.length,
            n_embd=config.hidden_dim,
            n_layer=config.n_blocks,
            n_head=config.n_heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            # As GPT-2 but for the attention weights, where dropout would keep the fused attention from being used.
            attn_pdrop=0.0,
            # The same function as GPT-2's gelu_new, in one fused operation.
            activation_function="gelu_pytorch_tanh",
            # GPT-2's own special ids lie outside a small vocabulary; rows carry theirs themselves.
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _fit(lm: PreTrainedModel, config: EvaluatorConfig, data: TokenFile, device: torch.device, autocast: bool) -> None:
    optimizer = torch.optim.AdamW(lm.parameters(), lr=config.lr, betas=_BETAS, weight_decay=_WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    order = RowOrder(data.rows, config.seed)
    lm.train()
    smooth: float | None = None
    with tqdm(range(config.steps), desc="evaluator", unit="step") as bar:
        for step in bar:
            rows_BL = data.take(order.rows_of(step * config.batch, config.batch)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                logits = lm(input_ids=rows_BL[:, :-1]).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), rows_BL[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(lm.parameters(), _CLIP)
            optimizer.step()
            scheduler.step()
            smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
