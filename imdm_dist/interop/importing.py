"""Imports a published checkpoint: makes a run folder of it, which every command reads as any other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from imdm_dist.config import Config, build, parse_overrides, require, to_dict
from imdm_dist.config.check import Layer, checked
from imdm_dist.data import Tokenizer, load_tokenizer
from imdm_dist.data.corpus import data_root
from imdm_dist.files import sha256_file
from imdm_dist.interop.naming import check_names, names_in_file
from imdm_dist.interop.published import Ema, PublishedCheckpoint, open_published
from imdm_dist.interop.report import ImportReport
from imdm_dist.interop.run_folder import write_run_folder
from imdm_dist.model import sketch
from imdm_dist.registry import BACKBONES


@dataclass(frozen=True)
class KnownVocabulary:
    """What is known of a vocabulary that public checkpoints have."""

    tokenizer: str
    """Name of its tokenizer on the hub."""
    mask_id: int
    length: int
    """Tokens in a row where the file does not say."""


VOCABULARIES = {50258: KnownVocabulary("gpt2", 50257, 1024), 30522: KnownVocabulary("bert-base-uncased", 103, 128)}
"""By number of ids, the mask included (MDLM, SDTT and IMDM share them)."""
SECTIONS = ("model", "data")
"""Sections of the configuration that an import has."""


def import_checkpoint(path: Path | str, out: Path | str, overrides: Sequence[str] = ()) -> ImportReport:
    """Make a run folder out of a published checkpoint.

    Args:
        path: checkpoint file or hub folder of MDLM, SDTT or IMDM.
        out: the folder to make; `load_model` reads it.
        overrides: `key.sub=value` for what the file does not say: `data.tokenizer`, `data.length` and other settings
            of data, `model.n_heads`, `model.attention_soft_cap`, `model.dropout`.

    Raises:
        ValueError: the file is not whole, is hostile, or is of another architecture, size or vocabulary; `out`
            exists. Nothing is written then.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists: give another --out, imports do not overwrite")
    asked = checked(Config, [Layer("on the command line", parse_overrides(Config, overrides))])
    if other := [name for name in asked if name not in SECTIONS]:
        raise ValueError(f"an import has settings of {' and '.join(SECTIONS)} alone: leave {other[0]}.* out")
    source = open_published(path)
    names = names_in_file(source.tensors)
    tensors = {ours: source.tensors[theirs] for ours, theirs in names.items()}
    family = asked.get("model", {}).get("family", BACKBONES.names[0])
    public = BACKBONES.get(family).public
    require(public is not None, f"imports do not know model.family={family}: its class has no public format")
    shape = public.deduce(source, tensors, asked.get("model", {}))
    data, length_from = _data(source, shape.vocab_size, asked.get("data", {}))
    layers = [("in the checkpoint", {"model": shape.model, "data": data}), ("on the command line", asked)]
    config = build(Config, layers)
    tokenizer = _tokenizer(config, shape.vocab_size)
    model = sketch(config.model, shape.vocab_size, tokenizer.mask_id)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    check_names(names, shapes, public)
    weights = _checked_float32({name: tensors[name] for name in shapes}, shapes, "the weights")
    ema = weights if source.ema is None else _named_ema(source.ema, shapes)
    print(f"taking the checksum of {source.path} ({source.path.stat().st_size / 2**30:.2f} GiB)", file=sys.stderr)
    report = ImportReport(
        file=source.path.name,
        container=source.container,
        sha256=sha256_file(source.path),
        integrity=source.integrity,
        step=source.step,
        used=list(shapes),
        renamed={theirs: ours for ours, theirs in names.items() if theirs != ours and ours in shapes},
        ignored={names[name]: why for name, why in public.ignored.items() if name in names} | source.ignored,
        missing=[name for name in public.ignored if name not in names],
        dtypes=sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        model={
            **to_dict(config.model),
            "mask": ", ".join(f"{name} {value}" for name, value in shape.model["mask"].items()),
            "vocab_size": shape.vocab_size,
            "mask_id": tokenizer.mask_id,
            "length": config.data.length,
        },
        origins=shape.origins | {"length": length_from},
        ema=_about_ema(source, shapes),
    )
    print(f"writing {out}", file=sys.stderr)
    write_run_folder(out, config, model, tokenizer, weights, ema, report)
    return report


def _data(source: PublishedCheckpoint, vocab_size: int, asked: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Settings of the section data, and where the length comes from."""
    known = VOCABULARIES.get(vocab_size)
    if known is None and "tokenizer" not in asked:
        raise ValueError(
            f"a vocabulary of {vocab_size} is neither GPT-2's (50258, mask included) nor BERT's (30522): name the "
            "tokenizer it was trained with by --tokenizer, or take another checkpoint"
        )
    length = source.setting("model.length", "model_length")
    if "length" in asked:
        length, where = asked["length"], "the command line"
    elif isinstance(length, int):
        where = "the file's settings"
    elif known is not None:
        length, where = known.length, f"what models on {known.tokenizer} have; give data.length=... if this one differs"
    else:
        raise ValueError("nothing in the file says how many tokens a row has: give data.length=...")
    # What these families trained on: see data.separator.
    return {"length": length, "separator": "begin"} | ({"tokenizer": known.tokenizer} if known else {}), where


def _tokenizer(config: Config, vocab_size: int) -> Tokenizer:
    """The tokenizer of the settings, which must have the file's vocabulary.

    Raises:
        ValueError: it does not load, or has another vocabulary or mask.
    """
    name = config.data.tokenizer
    found = load_tokenizer(name, data_root(config.data)[0])
    known = VOCABULARIES.get(vocab_size)
    if found.vocab_size != vocab_size:
        raise ValueError(
            f"the file has a vocabulary of {vocab_size}, the tokenizer {name} has {found.vocab_size} ids, mask "
            "included: name the tokenizer it was trained with by --tokenizer, or take another checkpoint"
        )
    if known is not None and found.mask_id != known.mask_id:
        raise ValueError(
            f"the tokenizer {name} has its mask at {found.mask_id}, published models of {vocab_size} ids have it at "
            f"{known.mask_id}: name the files of {known.tokenizer} by --tokenizer"
        )
    return found


def _checked_float32(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, Tensor]:
    """The tensors in float32.

    Raises:
        ValueError: one has another shape, is of integers or holds values that are no numbers.
    """
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"{what} have {tuple(tensor.shape)} for {name}, where a model of this width has {shapes[name]}: the "
                "file is of another architecture, or wrong; take another checkpoint"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{what} have {tensor.dtype} for {name}: take a checkpoint that is not quantized")
    for name, tensor in tqdm(tensors.items(), desc=f"checking {what}", unit=" tensors"):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{what} hold infinities or no numbers in {name}: the file is damaged; download it again")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _named_ema(ema: Ema, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Give an unnamed moving average the names of the parameters, whose order it is saved in.

    Raises:
        ValueError: number or shapes differ.
    """
    if len(ema.tensors) != len(shapes):
        raise ValueError(
            f"the file's EMA is a list of {len(ema.tensors)} tensors, the model has {len(shapes)} parameters: it is "
            "of another model; take another checkpoint"
        )
    for place, (name, tensor) in enumerate(zip(shapes, ema.tensors, strict=True)):
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"tensor {place} of the file's EMA has shape {tuple(tensor.shape)}, where {name} of "
                f"{shapes[name]} belongs: its order is another one; take another checkpoint"
            )
    return _checked_float32(dict(zip(shapes, ema.tensors, strict=True)), shapes, "the EMA")


def _about_ema(source: PublishedCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if source.ema is None:
        return {"about": "none in the file: ema and raw weights are the same here", "tensors": 0}
    updates, decay = source.ema.updates, source.ema.decay
    about = f"{len(shapes)} unnamed tensors, verified by order, number and shapes"
    return {"about": about, "tensors": len(shapes), "decay": decay, "updates": updates}
