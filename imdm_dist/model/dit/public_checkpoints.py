"""The checkpoints of MDLM, SDTT and IMDM: what model one is of, read from the shapes of its tensors, and from its
settings where shapes do not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from imdm_dist.config.setting import require
from imdm_dist.model.dit.rotary import frequencies
from imdm_dist.model.dit.settings import MODEL_SIZES
from imdm_dist.model.mask_embedding import deduce_mask
from imdm_dist.model.public_checkpoints import Deduced, Described, PublicFormat

MASK = "vocab_embed.imdm_mlp"
"""Name of the noise MLP in IMDM's checkpoints."""
_EMBEDDING = "vocab_embed.embedding"
_CONDITION = "sigma_map.mlp.0.weight"
_ANGLES = "rotary_emb.inv_freq"
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_PUBLISHED_SOFT_CAP = 50
"""Of the IMDM authors' runs on LM1B."""
_BERT = 30522
_UNSUITED = (
    (("parameterization", "algo.parameterization"), ("subs",), "predicts something else than the text"),
    (("time_conditioning", "algo.time_conditioning"), (False,), "is told the time, which this model is not"),
    (("algo.causal_attention",), (False,), "looks only backward"),
)
"""Settings of the source, the values that this framework's model has, and what another value means."""


def deduce(source: Described, tensors: Mapping[str, Tensor], asked: Mapping[str, Any]) -> Deduced:
    """Find the model's settings.

    Args:
        tensors: the source's, by own name.
        asked: settings of the section model from the command line.

    Raises:
        ValueError: the file is of another kind of model or of another size than was asked for, or the number of its
            heads or its soft cap cannot be known.
    """
    for names, fitting, meaning in _UNSUITED:
        value = source.setting(*names)
        if isinstance(value, str | bool) and value not in fitting:
            raise ValueError(f"the checkpoint has {names[0]}={value}: its model {meaning}; take an MDLM-like one")
    for name in (_EMBEDDING, _CONDITION):
        if name not in tensors or tensors[name].dim() != 2:
            raise ValueError(
                f"the file has no matrix {name}: it is of another architecture; take an MDLM, SDTT or IMDM checkpoint"
            )
    vocab_size, hidden_dim = tensors[_EMBEDDING].shape
    found: dict[str, Any] = {
        "hidden_dim": hidden_dim,
        "n_blocks": len({block[1] for block in map(_BLOCK.match, tensors) if block}),
        "cond_dim": tensors[_CONDITION].shape[0],
    }
    found["n_heads"], heads_from = _heads(source, tensors, found, asked)
    _check_asked(found, asked)
    _check_angles(tensors, hidden_dim // found["n_heads"])
    sizes = (found["hidden_dim"], found["n_blocks"], found["n_heads"])
    found["size"] = next((name for name, one in MODEL_SIZES.items() if one == sizes), "custom")
    found["mask"] = deduce_mask(_of_mask(tensors))
    for name, value in asked.get("mask", {}).items():
        theirs = found["mask"].get(name, value)
        require(
            theirs == value,
            f"the file has a mask of {name} {theirs}, but model.mask.{name}={value}: leave it out here, and set it "
            "where training starts from the import",
        )
    dropout = source.setting("model.dropout", "dropout")
    if isinstance(dropout, int | float):
        found["dropout"] = dropout
    found["attention_soft_cap"], cap_from = _soft_cap(source, bool(_of_mask(tensors)), vocab_size, asked)
    return Deduced(found, vocab_size, {"n_heads": heads_from, "attention_soft_cap": cap_from})


def _heads(
    source: Described, tensors: Mapping[str, Tensor], found: Mapping[str, Any], asked: Mapping[str, Any]
) -> tuple[int, str]:
    """Attention heads, which shape no weight, and what says so."""
    hidden_dim = found["hidden_dim"]
    known: dict[str, int] = {}
    if _ANGLES in tensors and tensors[_ANGLES].numel():
        known[_ANGLES] = hidden_dim // (2 * tensors[_ANGLES].numel())
    said = source.setting("model.n_heads", "n_heads")
    if isinstance(said, int):
        known["the file's settings"] = said
    if len(set(known.values())) > 1:
        ways = " and ".join(f"{number} by {where}" for where, number in known.items())
        raise ValueError(f"the checkpoint contradicts itself on its heads ({ways}): take another copy of it")
    if not known:
        known = {
            f"the size {name}": heads
            for name, (dim, blocks, heads) in MODEL_SIZES.items()
            if (dim, blocks) == (hidden_dim, found["n_blocks"])
        }
    if not known:
        if "n_heads" not in asked:
            raise ValueError(
                f"nothing in the file says how many heads share its width of {hidden_dim}: give model.n_heads=..."
            )
        known = {"the command line": asked["n_heads"]}
    where, number = next(iter(known.items()))
    require(
        number > 0 and hidden_dim % (2 * number) == 0,
        f"{number} heads by {where} do not fit a width of {hidden_dim}: take another copy of the checkpoint",
    )
    return number, where


def _check_asked(found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    named = MODEL_SIZES.get(asked.get("size", ""), ())
    wanted = dict(zip(("hidden_dim", "n_blocks", "n_heads"), named, strict=False))
    wanted |= {name: asked[name] for name in found if name in asked}
    for name, value in wanted.items():
        require(
            value in (0, found[name]),
            f"the file's model has {name} {found[name]}, but model.* asks for {value}: leave sizes out, they are read "
            "from the file, or take the checkpoint of that size",
        )


def _check_angles(tensors: Mapping[str, Tensor], head_dim: int) -> None:
    if _ANGLES in tensors:
        ours = frequencies(head_dim, torch.device("cpu"))
        theirs = tensors[_ANGLES].float()
        # Files cast to bf16 keep three digits.
        require(
            theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-2),
            f"{_ANGLES} has other angles than the published models (base 10,000): take an MDLM-like checkpoint",
        )


def _of_mask(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{MASK}."): one for name, one in tensors.items() if name.startswith(f"{MASK}.")}


def _soft_cap(source: Described, noisy: bool, vocab_size: int, asked: Mapping[str, Any]) -> tuple[float, str]:
    """The attention's soft cap, which no tensor shows, and what says so."""
    said = source.setting("model.softcap", "softcap")
    if "attention_soft_cap" in asked:
        return asked["attention_soft_cap"], "the command line"
    if isinstance(said, int | float):
        return max(float(said), 0.0), "the file's settings"
    if noisy and vocab_size == _BERT:
        raise ValueError(
            "nothing in the file says whether its attention has a soft cap, and IMDM's authors use one on LM1B: give "
            f"model.attention_soft_cap={_PUBLISHED_SOFT_CAP}, or =0 if it was trained without"
        )
    return 0.0, "assumed: MDLM, SDTT and IMDM on OpenWebText have none"


PUBLISHED = PublicFormat(
    models="MDLM, SDTT or IMDM",
    ignored={_ANGLES: "the angles follow from the width of a head; its values were compared"},
    deduce=deduce,
)
