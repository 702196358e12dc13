"""Loading a trained model from a checkpoint, and starting another model from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imdm_dist import run_files
from imdm_dist.checkpoint.read import find_checkpoint
from imdm_dist.config.schema import Config
from imdm_dist.config.setting import Weights
from imdm_dist.data import Dataset, Tokenizer, load_tokenizer
from imdm_dist.finite import check_finite
from imdm_dist.model import Backbone, build_backbone


@dataclass(frozen=True)
class LoadedModel:
    """A model out of a checkpoint."""

    model: Backbone
    """In eval mode, on the host, float32."""
    config: Config
    """Configuration of the run that wrote it, but for its objective."""
    digest: str
    """SHA-256 of the file the weights came from."""
    step: int
    """Optimizer steps done."""
    weights: Weights
    """Whether these are EMA or raw weights."""
    provenance: dict[str, Any]
    """What the run was made from."""
    length: int
    """Tokens in a row it was trained on."""
    folder: Path
    """Run folder."""

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that is kept with the run; None for the synthetic language."""
        if self.provenance["tokenizer"] is None:
            return None
        path = self.folder / run_files.TOKENIZER
        if not path.is_dir():
            raise ValueError(f"{path} is missing: copy the run folder whole, not a checkpoint alone")
        found = load_tokenizer(str(path.resolve()))
        if found.fingerprint != self.provenance["tokenizer"]:
            raise ValueError(f"{path} is not the tokenizer this model was trained with: copy the run folder whole")
        return found

    def check_data(self, data: Dataset) -> None:
        """Check that `data` has this model's tokens.

        Raises:
            ValueError: it was made with another tokenizer or has another length.
        """
        theirs = data.tokenizer.fingerprint if data.tokenizer else None
        if (theirs, data.train.length) != (self.provenance["tokenizer"], self.length):
            raise ValueError(
                f"the model in {self.folder} was trained with another tokenizer or length than this data has: "
                f"give the data.* settings of {self.folder / run_files.CONFIG}, and the same text"
            )


def load_model(path: Path | str, weights: Weights = "ema") -> LoadedModel:
    """Load the model of a run folder (its newest whole checkpoint) or of one checkpoint folder.

    Raises:
        ValueError: there is none, or it is damaged, or its training had diverged: a weight is not finite.
    """
    quantity = "ema" if weights == "ema" else "weights"
    checkpoint = find_checkpoint(Path(path), quantity)
    state = checkpoint.state
    config = checkpoint.config()
    model = build_backbone(config.model, state["model"]["vocab_size"], state["model"]["mask_id"]).eval()
    model.name = f"{checkpoint.path} ({weights} weights)"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.full(quantity, name))
    remedy = "its training diverged; take an earlier checkpoint of it, or train it again"
    check_finite(model.named_parameters(), str(checkpoint.path), remedy)
    return LoadedModel(
        model=model,
        config=config,
        digest=checkpoint.digest(quantity),
        step=checkpoint.step,
        weights=weights,
        provenance=state["provenance"],
        length=state["model"]["length"],
        folder=checkpoint.path.parent,
    )


def initialise(model: Backbone, source: LoadedModel) -> None:
    """Copy the weights of another run's model by name; a new mask embedding keeps its zero-output start.

    `training/inputs.py` has checked by then that vocabularies and masks fit.

    Raises:
        ValueError: the two models differ in size.
    """
    theirs, ours = source.model, model
    for name, (there, here) in theirs.config.unlike(ours.config).items():
        raise ValueError(
            f"inputs.init has model.{name}={there}, this model {here}: give both the same model.* settings"
        )
    assert (theirs.vocab_size, theirs.mask_id) == (ours.vocab_size, ours.mask_id)
    weights = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if name in weights:
            assert parameter.shape == weights[name].shape
            parameter.data.copy_(weights[name].data)
        else:
            assert ours.is_of_mask(name)
