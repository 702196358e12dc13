"""Checkpoints: every quantity by parameter name in full shape, so that any run can read any other's.

A checkpoint is a folder `step-00001000` in the run's folder: safetensors files (weights, ema, exp_avg,
exp_avg_sq, objective, rng) and `state.json`, which holds the step, the configuration, provenance and
the SHA-256 of each file. It is written aside and renamed: a folder of that name is whole. Data order,
times, masks and noise need no state, as they are functions of the step.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from imdm_dist.config import from_dict
from imdm_dist.config.schema import Config, Weights
from imdm_dist.data import Dataset, Tokenizer, load_tokenizer
from imdm_dist.files import publish_dir, read_json, sha256_file, write_json
from imdm_dist.model import DiT

FORMAT = 1
TOKENIZER = "tokenizer"
"""Folder of the tokenizer in a run folder: a model is of no use without it."""
NamedTensors = dict[str, Tensor]


@dataclass(frozen=True)
class LoadedModel:
    """A model out of a checkpoint."""

    model: DiT
    """In eval mode, on the host, float32."""
    config: Config
    """Configuration of the run that wrote it."""
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
        path = self.folder / TOKENIZER
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
                f"give the data.* settings of {self.folder / 'config.json'}, and the same text"
            )


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, NamedTensors], state: dict[str, Any], keep_last: int
) -> Path:
    """Publish the checkpoint of `step` in the run folder, then drop all but the newest `keep_last`.

    Args:
        tensors: named tensors by file stem; empty ones make no file.
        state: what goes into state.json beside step, format and checksums.
    """
    path = folder / checkpoint_name(step)
    with publish_dir(path) as aside:
        sums = {}
        for stem, named in tensors.items():
            if named:
                file = aside / f"{stem}.safetensors"
                save_file({name: tensor.contiguous() for name, tensor in named.items()}, file)
                sums[file.name] = sha256_file(file)
        write_json(aside / "state.json", {"format": FORMAT, "step": step, "files": sums, **state})
    for old in sorted(folder.glob("step-*"))[:-keep_last]:
        shutil.rmtree(old)
    return path


def check(path: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint and compare every file with its checksum.

    Raises:
        ValueError: a file is missing or differs, or the format is another one.
    """
    if not (path / "state.json").exists():
        raise ValueError(f"{path} is no checkpoint: it has no state.json; give a run folder or a step-* folder in it")
    state = read_json(path / "state.json")
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    for name, digest in state["files"].items():
        file = path / name
        if not file.exists() or sha256_file(file) != digest:
            raise ValueError(f"{file} is missing or damaged: remove {path.name} to go on from an older checkpoint")
    return state


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its state.json; broken ones are named on stderr and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return path, check(path)
        except ValueError as error:
            print(f"passing over a broken checkpoint: {error}", file=sys.stderr)
    return None


def load_tensors(path: Path, stem: str) -> NamedTensors:
    """One file of a checkpoint; empty if it has none of that name."""
    file = path / f"{stem}.safetensors"
    return load_file(file) if file.exists() else {}


def _find(path: Path) -> tuple[Path, dict[str, Any]]:
    if not path.exists():
        raise ValueError(f"there is no run or checkpoint at {path}: check the path, or train it first")
    if (path / "state.json").exists():
        return path, check(path)
    newest = newest_checkpoint(path)
    if newest is None:
        raise ValueError(f"{path} holds no whole checkpoint (step-* folder): train it first")
    return newest


def load_model(path: Path | str, weights: Weights = "ema") -> LoadedModel:
    """Load the model of a run folder (its newest whole checkpoint) or of one checkpoint folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path, state = _find(Path(path))
    config = from_dict(Config, state["config"], where=str(path / "state.json"))
    model = DiT(config.model, state["model"]["vocab_size"], state["model"]["mask_id"]).eval()
    stem = "ema" if weights == "ema" else "weights"
    named = load_tensors(path, stem)
    model.load_state_dict(named, strict=False)
    missing = {name for name, _ in model.named_parameters()} - named.keys()
    assert not missing, f"{path} lacks {sorted(missing)[:3]}"
    return LoadedModel(
        model=model,
        config=config,
        digest=state["files"][f"{stem}.safetensors"],
        step=state["step"],
        weights=weights,
        provenance=state["provenance"],
        length=state["model"]["length"],
        folder=path.parent,
    )


def initialise(model: DiT, source: LoadedModel) -> None:
    """Copy the weights of another run's model by name; a new mask embedding keeps its zero-output start.

    Raises:
        ValueError: the two models differ in vocabulary or size.
    """
    theirs, ours = source.model, model
    for name in ("n_heads", "attention_soft_cap"):  # they shape no parameter
        if getattr(theirs.config, name) != getattr(ours.config, name):
            raise ValueError(
                f"inputs.init has model.{name}={getattr(theirs.config, name)}, this model "
                f"{getattr(ours.config, name)}: give both the same model.* settings"
            )
    if (theirs.vocab_size, theirs.mask_id) != (ours.vocab_size, ours.mask_id):
        raise ValueError(
            f"the model of inputs.init has vocabulary {theirs.vocab_size} (mask {theirs.mask_id}), the data's has "
            f"{ours.vocab_size} (mask {ours.mask_id}): use the tokenizer it was trained with (data.tokenizer)"
        )
    weights = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if name in weights and weights[name].shape == parameter.shape:
            parameter.data.copy_(weights[name].data)
        elif ".imdm_mlp." not in name or name in weights:
            shape = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(
                f"inputs.init has {shape} for {name}, this model needs {tuple(parameter.shape)}: "
                "give both the same model.* settings"
            )
    lost = [name for name in weights if name not in dict(ours.named_parameters())]
    if lost:
        raise ValueError(f"inputs.init has {lost[0]}, which this model lacks: give both the same model.* settings")
