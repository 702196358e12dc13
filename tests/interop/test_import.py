"""Published checkpoints, written here in each of their containers with random weights, come in as what they are."""

import collections
import json
import os
import pickle
import re
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imdm_dist import draws
from imdm_dist.checkpoint.model import initialise, load_model
from imdm_dist.config import Config, MaskConfig
from imdm_dist.data import load_tokenizer
from imdm_dist.data.tokenizer import END_OF_TEXT, train_bpe
from imdm_dist.files import read_json, sha256_file
from imdm_dist.interop import import_checkpoint, run_folder
from imdm_dist.interop.naming import own_name
from imdm_dist.interop.published import PublishedCheckpoint
from imdm_dist.model import Backbone, build_backbone
from imdm_dist.model.dit import DitConfig
from imdm_dist.model.dit.public_checkpoints import deduce
from imdm_dist.model.dit.settings import MODEL_SIZES
from tests.commands.test_tools import call
from tests.published_dit import PublishedDiT

LENGTH = 8
Tokenized = tuple[Path, int]
"""Folder of a tokenizer, and the vocabulary of models on it."""
Pair = tuple[PublishedDiT, PublishedDiT]
RAN: list[object] = []
"""What foreign code did, if any was run."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of a small tokenizer, and the vocabulary of models on it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(["the cat sat on the mat"] * 20, 300, folder)
    return folder, load_tokenizer(str(folder)).vocab_size


@pytest.fixture
def small(tokenizer: Tokenized) -> Pair:
    """Raw weights and their moving average."""
    return PublishedDiT(tokenizer[1], seed=1), PublishedDiT(tokenizer[1], seed=2)


def dit_of(config: Config) -> DitConfig:
    """The model's settings, which are a DiT's."""
    assert isinstance(config.model, DitConfig)
    return config.model


# --- containers


def prefixed(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def ema_of(model: nn.Module) -> dict[str, Any]:
    return {"decay": 0.9999, "num_updates": 7, "shadow_params": [p.detach().clone() for p in model.parameters()]}


def foreign(monkeypatch: pytest.MonkeyPatch, module: str, name: str, **content: Any) -> type[Any]:
    """A class that is importable while the file is written and gone when it is read."""
    if module not in sys.modules:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    made = type(name, (), {"__module__": module, "__setstate__": lambda self, state: RAN.append(name), **content})
    setattr(sys.modules[module], name, made)
    return made


def foreign_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Any:
    """Settings as OmegaConf pickles them: containers with a parent, metadata and a cache, leaves with a value."""
    container = foreign(monkeypatch, "strange_conf", "DictConfig")
    leaf = foreign(monkeypatch, "strange_conf", "AnyNode")

    def node(value: Any, parent: Any) -> Any:
        made = object.__new__(container if isinstance(value, dict) else leaf)
        made.__dict__ |= {"_parent": parent, "_metadata": [dict, collections.defaultdict(dict, {"a": {}})]}
        if isinstance(value, dict):
            made.__dict__["_content"] = {key: node(one, made) for key, one in value.items()}
        else:
            made.__dict__["_val"] = value
        return made

    return node(settings, None)


def lightning(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raw: nn.Module,
    averaged: nn.Module,
    prefix: str = "backbone._orig_mod.",
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A file as Lightning writes it, with objects of classes that the reader does not have."""
    settings = settings or {"model": {"length": LENGTH, "dropout": 0.25}, "time_conditioning": False}
    restore: type[Any]
    with monkeypatch.context() as patch:
        tokenizer = foreign(patch, "strange_tokens", "Tokenizer", __reduce__=lambda self: (restore, (b"bytes", {1, 2})))
        restore = foreign(patch, "strange_tokens", "restore", __init__=lambda self, *a: RAN.append("restore"))
        content = {
            "epoch": 1,
            "global_step": 1234,
            "pytorch-lightning_version": "2.2.1",
            "state_dict": collections.OrderedDict(prefixed(raw, prefix)),
            "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
            "lr_schedulers": [{"last_epoch": 3}],
            "hyper_parameters": {"config": foreign_settings(patch, settings), "tokenizer": tokenizer()},
            "ema": ema_of(averaged),
            "sampler": {"random_state": None},
        }
        torch.save(content | changes, path)
    return path


def mdlm_lightning(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module) -> tuple[Path, bool]:
    return lightning(folder / "last.ckpt", monkeypatch, raw, ema), True


def sdtt_lightning(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module) -> tuple[Path, bool]:
    """Distilled from the hub's teacher: the hub's class is a backbone in a backbone."""
    return lightning(folder / "70000.ckpt", monkeypatch, raw, ema, prefix="backbone.backbone."), True


def legacy_lightning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module
) -> tuple[Path, bool]:
    real = torch.save

    def old(content: Any, path: Path) -> None:
        real(content, path, _use_new_zipfile_serialization=False)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", old)
        return lightning(folder / "old.ckpt", monkeypatch, raw, ema), True


def mdlm_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module) -> tuple[Path, bool]:
    config = {"model_type": "mdlm", "model_length": LENGTH, "n_heads": 2, "dropout": 0.25, "time_conditioning": False}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(prefixed(raw, "backbone."), folder / "model.safetensors")
    return folder, False


def mdlm_hub_bin(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module) -> tuple[Path, bool]:
    mdlm_hub(folder, monkeypatch, raw, ema)
    (folder / "model.safetensors").unlink()
    torch.save(prefixed(raw, "backbone."), folder / "pytorch_model.bin")
    return folder, False


def sdtt_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: nn.Module, ema: nn.Module) -> tuple[Path, bool]:
    model = {"name": "small", "n_heads": 2, "length": LENGTH, "dropout": 0.25, "causal": True}
    config = {"model": model, "time_conditioning": False, "parameterization": {"num_distill_steps": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(prefixed(raw, "backbone.backbone."), folder / "model.safetensors")
    return folder / "model.safetensors", False


CONTAINERS = [mdlm_lightning, sdtt_lightning, legacy_lightning, mdlm_hub, mdlm_hub_bin, sdtt_hub]


# --- what comes in


def assert_same(model: Backbone, published: PublishedDiT, mask_id: int, noise_dim: int = 0) -> None:
    """Logits of the loaded model and of the independent one, at masked and visible positions."""
    vocab_size = published.vocab_embed.embedding.shape[0]
    x_BL = torch.randint(0, vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    x_BL[:, ::2] = mask_id
    seed_B = torch.tensor([5, 6, 7])
    given: tuple[Tensor, ...] = ()
    if noise_dim:
        position_L, seed_BL = torch.arange(LENGTH).expand(3, -1), seed_B[:, None].expand(-1, LENGTH)
        seed_R, position_R, redraw_R = (one.flatten() for one in (seed_BL, position_L, torch.zeros_like(position_L)))
        noise_RN = draws.noise(seed_R, position_R, redraw_R, noise_dim, "uniform")
        given = noise_RN.view(3, LENGTH, noise_dim).float(), x_BL == mask_id
    theirs, ours = published(x_BL, *given), model.logits(x_BL, seed_B)
    others = [column for column in range(vocab_size) if column != mask_id]
    assert theirs[..., others].std() > 0.1
    assert (ours[..., mask_id] <= -1e5).all()
    torch.testing.assert_close(ours[..., others], theirs[..., others], atol=1e-5, rtol=0)


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda one: one.__name__)
def test_logits_equal_the_published_architecture(
    container: Callable[..., tuple[Path, bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: Pair,
    tokenizer: Tokenized,
) -> None:
    raw, ema = small
    (tmp_path / "source").mkdir()
    path, has_ema = container(tmp_path / "source", monkeypatch, raw, ema)
    report = import_checkpoint(path, tmp_path / "run", [f"data.tokenizer={tokenizer[0]}"])
    averaged = load_model(tmp_path / "run", "ema")
    assert_same(averaged.model, ema if has_ema else raw, tokenizer[1] - 1)
    assert_same(load_model(tmp_path / "run", "raw").model, raw, tokenizer[1] - 1)
    assert averaged.length == LENGTH and dit_of(averaged.config).dropout == 0.25
    assert averaged.step == (1234 if has_ema else 0)
    found = averaged.tokenizer()
    assert found is not None and found.fingerprint == load_tokenizer(str(tokenizer[0])).fingerprint
    assert asdict(report) == read_json(tmp_path / "run" / "import.json")
    assert not RAN and not any(name.startswith("strange") for name in sys.modules)


@pytest.fixture(scope="module")
def public_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for GPT-2's and BERT's files: letters, what fills up the vocabulary, and special tokens in place."""
    home = tmp_path_factory.mktemp("public")
    train_bpe([], 300, home / "letters")
    letters = sorted(set(load_tokenizer(str(home / "letters")).fast.get_vocab()) - {END_OF_TEXT, "[MASK]"})
    entries = [*letters, *(f"filler{i}" for i in range(50256 - len(letters))), END_OF_TEXT]
    (home / "gpt2").mkdir()
    (home / "gpt2" / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (home / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    signs = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    entries = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries += [*signs, *(f"##{sign}" for sign in signs)]
    entries += [f"filler{i}" for i in range(30522 - len(entries))]
    (home / "bert").mkdir()
    (home / "bert" / "vocab.txt").write_text("\n".join(entries) + "\n")
    return home


VOCABULARIES = [("gpt2", 50258, 50257, 1024), ("bert", 30522, 103, 128)]


@pytest.mark.parametrize(("name", "vocab_size", "mask_id", "length"), VOCABULARIES)
def test_masks_of_both_vocabularies(
    tmp_path: Path, public_tokenizers: Path, name: str, vocab_size: int, mask_id: int, length: int
) -> None:
    raw = PublishedDiT(vocab_size, dim=8, blocks=1)
    torch.save(prefixed(raw, "backbone."), tmp_path / "weights.pt")
    report = import_checkpoint(
        tmp_path / "weights.pt", tmp_path / "run", [f"data.tokenizer={public_tokenizers / name}"]
    )
    assert (report.model["mask_id"], report.model["length"]) == (mask_id, length)
    assert "give data.length=" in report.origins["length"]
    imported = load_model(tmp_path / "run")
    assert imported.config.data.separator == "begin"  # what their packing takes
    assert_same(imported.model, raw, mask_id)


def test_a_noise_mlp_and_a_soft_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenized) -> None:
    raw, ema = (PublishedDiT(tokenizer[1], noise_dim=12, cap=3.0, seed=seed) for seed in (1, 2))
    settings = {"model": {"length": LENGTH, "softcap": 3.0}, "algo": {"parameterization": "subs"}}
    lightning(tmp_path / "imdm.ckpt", monkeypatch, raw, ema, settings=settings)
    import_checkpoint(tmp_path / "imdm.ckpt", tmp_path / "run", [f"data.tokenizer={tokenizer[0]}"])
    loaded = load_model(tmp_path / "run")
    assert loaded.config.model.mask == MaskConfig(kind="infinite", noise_dim=12)
    assert_same(loaded.model, ema, tokenizer[1] - 1, noise_dim=12)


def test_training_starts_from_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pair, tokenizer: Tokenized
) -> None:
    lightning(tmp_path / "a.ckpt", monkeypatch, *small)
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "run", [f"data.tokenizer={tokenizer[0]}"])
    loaded = load_model(tmp_path / "run")
    mask = MaskConfig(kind="infinite", noise_dim=5)
    config = DitConfig(size="custom", hidden_dim=32, n_blocks=2, n_heads=2, mask=mask)
    student = build_backbone(config, tokenizer[1], tokenizer[1] - 1)
    initialise(student, loaded)
    assert_same(student.eval(), small[1], tokenizer[1] - 1)


@pytest.mark.parametrize("vocab_size", [50258, 30522])
@pytest.mark.parametrize("size", MODEL_SIZES)
def test_published_sizes_are_known_by_their_shapes(
    size: Literal["tiny", "small", "medium", "large"], vocab_size: int
) -> None:
    with torch.device("meta"):
        model = build_backbone(DitConfig(size=size), vocab_size, 103)
    shape = deduce(PublishedCheckpoint(Path("x"), "", {}, {}), dict(model.named_parameters()), {})
    assert (shape.model["size"], shape.model["n_heads"]) == (size, MODEL_SIZES[size][2])
    assert shape.origins["n_heads"] == f"the size {size}"


def test_half_precision_becomes_float32(tmp_path: Path, small: Pair, tokenizer: Tokenized) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in prefixed(small[0], "backbone.").items()}
    torch.save(halves, tmp_path / "half.pt")
    report = import_checkpoint(tmp_path / "half.pt", tmp_path / "run", tokens(tokenizer))
    assert report.dtypes == ["bfloat16"]
    loaded = load_model(tmp_path / "run").model.get_parameter("vocab_embed.embedding")
    assert torch.equal(loaded, small[0].get_parameter("vocab_embed.embedding").bfloat16().float())


def test_the_report_accounts_for_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pair, tokenizer: Tokenized
) -> None:
    path = lightning(tmp_path / "last.ckpt", monkeypatch, *small)
    report = import_checkpoint(path, tmp_path / "run", [f"data.tokenizer={tokenizer[0]}"])
    names = [name for name, _ in small[0].named_parameters()]
    assert report.used == names
    assert report.renamed == {f"backbone._orig_mod.{name}": name for name in names}
    angles = "backbone._orig_mod.rotary_emb.inv_freq"
    assert list(report.ignored)[0] == angles and set(report.ignored) > {"optimizer_states", "hyper_parameters"}
    assert report.missing == []
    assert report.sha256 == sha256_file(path)
    assert report.parameters == sum(p.numel() for p in small[0].parameters())
    assert report.ema == {
        "about": f"{len(names)} unnamed tensors, verified by order, number and shapes",
        "tensors": len(names),
        "decay": 0.9999,
        "updates": 7,
    }
    provenance = load_model(tmp_path / "run").provenance["import"]
    assert provenance == {
        "file": "last.ckpt",
        "sha256": report.sha256,
        "container": "Lightning checkpoint",
        "step": 1234,
    }


@pytest.mark.parametrize("name", ["backbone.x.y", "backbone.backbone.x.y", "_orig_mod.mdlm.backbone.x._orig_mod.y"])
def test_prefixes_come_off(name: str) -> None:
    assert own_name(name) == "x.y"


# --- what is refused


def tokens(tokenizer: Tokenized) -> list[str]:
    return [f"data.tokenizer={tokenizer[0]}", f"data.length={LENGTH}"]


def refused(tmp_path: Path, path: Path, cause: str, overrides: list[str]) -> None:
    """The import ends with one line, and leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=cause) as error:
        import_checkpoint(path, tmp_path / "run", overrides)
    assert "\n" not in str(error.value) and ": " in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def changed(weights: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in (weights | changes).items() if tensor is not None}


HEAD = "output_layer.linear.weight"
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a parameter is missing": ({"blocks.1.norm2.weight": None}, "lacks blocks.1.norm2.weight of the model's 30"),
    "no embedding": ({"vocab_embed.embedding": None}, "no matrix vocab_embed.embedding"),
    "an unknown key": ({"latent_projection.0.weight": torch.ones(2)}, "has latent_projection.0.weight, which this"),
    "two models": ({"module.sigma_map.mlp.0.bias": torch.ones(2)}, "both sigma_map.mlp.0.bias and module.sigma"),
    "another shape": ({HEAD: torch.ones(7, 32)}, r"have \(7, 32\) for output_layer.linear.weight"),
    "integers": ({"blocks.0.norm1.weight": torch.ones(32, dtype=torch.int8)}, "int8 for blocks.0.norm1.weight"),
    "no numbers": ({"blocks.0.norm1.weight": torch.full((32,), torch.nan)}, "no numbers in blocks.0.norm1.weight"),
    "other angles": ({"rotary_emb.inv_freq": torch.ones(8)}, "has other angles"),
    "not tensors": ({"sigma_map": {}}, "holds no tensors by name"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_are_refused(change: str, tmp_path: Path, small: Pair, tokenizer: Tokenized) -> None:
    changes, cause = CHANGES[change]
    torch.save(changed(small[0].state_dict(), **changes), tmp_path / "weights.pt")
    refused(tmp_path, tmp_path / "weights.pt", cause, tokens(tokenizer))


ASKED = {
    "another size": (["model.size=small"], "hidden_dim 32, but model.* asks for 768"),
    "other heads": (["model.n_heads=4"], "n_heads 2, but model.* asks for 4"),
    "another mask": (["model.mask.kind=infinite"], "a mask of kind single, but model.mask.kind=infinite"),
    "another section": (["train.steps=3"], "leave train"),
    "an unknown setting": (["model.n_haeds=3"], "did you mean model.n_heads"),
    "no tokenizer": (["data.tokenizer=./nothing"], "data.tokenizer=./nothing is no folder"),
}


@pytest.mark.parametrize("case", ASKED)
def test_settings_that_contradict_the_file_are_refused(
    case: str, tmp_path: Path, small: Pair, tokenizer: Tokenized
) -> None:
    torch.save(small[0].state_dict(), tmp_path / "weights.pt")
    overrides, cause = ASKED[case]
    refused(tmp_path, tmp_path / "weights.pt", re.escape(cause), [*tokens(tokenizer), *overrides])


def test_a_wrong_vocabulary_is_refused(tmp_path: Path, tokenizer: Tokenized, public_tokenizers: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(PublishedDiT(50258, dim=8, blocks=1).state_dict(), weights)
    refused(
        tmp_path,
        weights,
        "a vocabulary of 50258, the tokenizer .* has 30522",
        [f"data.tokenizer={public_tokenizers / 'bert'}"],
    )
    torch.save(PublishedDiT(30523, dim=8, blocks=1).state_dict(), weights)
    refused(tmp_path, weights, "30523 is neither GPT-2's .* nor BERT's", [])


def test_what_no_tensor_shows_must_be_given(tmp_path: Path, tokenizer: Tokenized, public_tokenizers: Path) -> None:
    weights = tmp_path / "weights.pt"
    state = PublishedDiT(tokenizer[1]).state_dict()
    del state["rotary_emb.inv_freq"]
    torch.save(state, weights)
    refused(tmp_path, weights, "give model.n_heads=", tokens(tokenizer))
    refused(tmp_path, weights, "give data.length=", [tokens(tokenizer)[0], "model.n_heads=2"])
    report = import_checkpoint(weights, tmp_path / "run", [*tokens(tokenizer), "model.n_heads=4"])
    assert (report.model["n_heads"], report.origins["n_heads"]) == (4, "the command line")
    assert report.missing == ["rotary_emb.inv_freq"]
    bert = [f"data.tokenizer={public_tokenizers / 'bert'}"]
    torch.save(PublishedDiT(30522, dim=8, blocks=1, noise_dim=4).state_dict(), weights)
    (tmp_path / "run").rename(tmp_path / "first")
    refused(tmp_path, weights, "give model.attention_soft_cap=50, or =0", bert)
    import_checkpoint(weights, tmp_path / "run", [*bert, "model.attention_soft_cap=50"])
    assert dit_of(load_model(tmp_path / "run").config).attention_soft_cap == 50


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"time_conditioning": True}, "time_conditioning=True: its model is told the time"),
        ({"parameterization": "sedd"}, "parameterization=sedd: its model predicts something else"),
        ({"algo": {"parameterization": "mean"}}, "=mean: its model predicts"),
        ({"algo": {"causal_attention": True}}, "looks only backward"),
        ({"model": {"n_heads": 4}}, "contradicts itself on its heads"),
    ],
)
def test_models_of_another_kind_are_refused(
    settings: dict[str, Any],
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: Pair,
    tokenizer: Tokenized,
) -> None:
    path = lightning(tmp_path / "a.ckpt", monkeypatch, *small, settings=settings)
    refused(tmp_path, path, cause, tokens(tokenizer))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda listed: listed[:-1], "EMA is a list of 29 tensors, the model has 30"),
        (lambda listed: [*listed[:5], listed[6], listed[5], *listed[7:]], "tensor 5 of the file's EMA has shape"),
        (lambda listed: [*listed[:-1], torch.full_like(listed[-1], torch.inf)], "the EMA hold infinities"),
        (lambda listed: None, "no list of tensors"),
    ],
)
def test_a_wrong_ema_is_refused(
    change: Callable[[list[Tensor]], list[Tensor] | None],
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: Pair,
    tokenizer: Tokenized,
) -> None:
    ema = {"decay": 0.9, "num_updates": 1, "shadow_params": change(ema_of(small[1])["shadow_params"])}
    path = lightning(tmp_path / "a.ckpt", monkeypatch, *small, ema=ema)
    refused(tmp_path, path, cause, tokens(tokenizer))


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


HOSTILE: dict[str, tuple[str, Callable[..., object], *tuple[str, ...]]] = {
    "os.system": ("posix.system", os.system, "touch {}"),
    "eval": ("builtins.eval", eval, "open({!r}, 'w')"),
    "exec": ("builtins.exec", exec, "open({!r}, 'w')"),
    "open": ("io.open", open, "{}", "w"),
    "a module's own code": ("runpy.run_path", __import__("runpy").run_path, "{}"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("way", HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_run(
    way: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pair, tokenizer: Tokenized
) -> None:
    trace = tmp_path / "trace"
    named, function, *(text, *more) = HOSTILE[way]
    call = Call(function, text.format(str(trace)), *more)
    path = tmp_path / "evil.ckpt"
    torch.save(
        {"state_dict": prefixed(small[0], "backbone."), "hyper_parameters": call},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    refused(tmp_path, path, f"is hostile: .*{re.escape(named)}; nothing of it was run", tokens(tokenizer))
    with monkeypatch.context() as patch:  # and were the list of names ever too short: nothing is run all the same
        patch.setattr("imdm_dist.interop.safe_unpickle._HOSTILE", re.compile("(?!)"))
        try:
            import_checkpoint(path, tmp_path / "run", tokens(tokenizer))
        except ValueError as error:
            assert "cannot be read safely" in str(error)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_refused(protocol: int, tmp_path: Path, tokenizer: Tokenized) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"state_dict": Call(os.system, f"touch {trace}")}, protocol=protocol))
    refused(tmp_path, path, "is hostile" if protocol == 2 else "cannot be read safely", tokens(tokenizer))
    assert not trace.exists()


def test_foreign_calls_are_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pair, tokenizer: Tokenized
) -> None:
    """A function that is importable and harmless by name: it is there, and still not called."""
    module = types.ModuleType("innocent")
    monkeypatch.setitem(sys.modules, "innocent", module)

    def function(*arguments: object) -> None:
        RAN.append(arguments)

    function.__module__, function.__qualname__ = "innocent", "function"
    vars(module)["function"] = function
    torch.save({"state_dict": small[0].state_dict(), "callbacks": [Call(function, 1)]}, tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "run", tokens(tokenizer))
    assert not RAN


@pytest.mark.parametrize("suffix", ["ckpt", "old.ckpt", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.99])
def test_a_file_that_is_cut_off_is_refused(
    suffix: str, part: float, tmp_path: Path, small: Pair, tokenizer: Tokenized
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "safetensors":
        save_file(small[0].state_dict(), path)
    else:
        torch.save({"state_dict": small[0].state_dict()}, path, _use_new_zipfile_serialization=suffix == "ckpt")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(tmp_path, path, "cannot be read safely|is no checkpoint|is no safetensors file", tokens(tokenizer))


@pytest.mark.parametrize("suffix", ["ckpt", "bin"])
def test_a_flipped_byte_in_a_zip_file_is_found_by_its_checksums(
    suffix: str, tmp_path: Path, small: Pair, tokenizer: Tokenized
) -> None:
    path = tmp_path / f"a.{suffix}"
    state = small[0].state_dict()
    torch.save({"state_dict": state} if suffix == "ckpt" else state, path)
    content = path.read_bytes()
    weights = state["blocks.0.attn_qkv.weight"].numpy().tobytes()
    for at in (content.index(weights), content.index(weights) + len(weights) - 1):
        changed = bytearray(content)
        changed[at] ^= 0x01
        path.write_bytes(changed)
        refused(
            tmp_path, path, "is damaged: its content is not what its own checksums say .*download it", tokens(tokenizer)
        )
    path.write_bytes(content)
    assert import_checkpoint(path, tmp_path / "run", tokens(tokenizer)).integrity == "its own checksums hold"


@pytest.mark.parametrize("form", ["safetensors", "legacy", "zip without sums"])
def test_a_file_without_checksums_says_so(form: str, tmp_path: Path, small: Pair, tokenizer: Tokenized) -> None:
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.ckpt")
    if form == "safetensors":
        save_file(small[0].state_dict(), path)
    else:
        torch.serialization.set_crc32_options(form == "legacy")
        try:
            torch.save(small[0].state_dict(), path, _use_new_zipfile_serialization=form != "legacy")
        finally:
            torch.serialization.set_crc32_options(True)
    report = import_checkpoint(path, tmp_path / "run", tokens(tokenizer))
    assert "no checksums: compare this one" in report.integrity and report.integrity in str(report)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, tokenizer: Tokenized) -> None:
    page = tmp_path / "mdlm.ckpt"
    page.write_text("<html>not found</html>")
    refused(tmp_path, page, "is no checkpoint .*<htm", tokens(tokenizer))
    refused(tmp_path, tmp_path / "nothing.ckpt", "there is nothing at", tokens(tokenizer))
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "has neither model.safetensors nor", tokens(tokenizer))
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    refused(tmp_path, tmp_path / "list.pt", "holds no tensors by name", tokens(tokenizer))


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pair, tokenizer: Tokenized
) -> None:
    from safetensors import SafetensorError

    torch.save(small[0].state_dict(), tmp_path / "weights.pt")

    def full(folder: Path, **_: Any) -> None:
        (folder / "weights.safetensors").write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(run_folder, "write_pieces", full)
    refused(tmp_path, tmp_path / "weights.pt", "No space left on device.*make room", tokens(tokenizer))


def test_the_tool(tmp_path: Path, small: Pair, tokenizer: Tokenized) -> None:
    torch.save(small[0].state_dict(), tmp_path / "weights.pt")
    command = ["import_checkpoint.py", "weights.pt", "--out", "run", f"data.length={LENGTH}"]
    failed = call(tmp_path, *command)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "--tokenizer" in failed.stderr
    done = call(tmp_path, *command, "--tokenizer", str(tokenizer[0]))
    assert done.returncode == 0, done.stderr
    assert "used     30 tensors" in done.stdout and "none in the file" in done.stdout
    again = call(tmp_path, *command, "--tokenizer", str(tokenizer[0]))
    assert again.returncode == 2 and again.stderr == "error: run exists: give another --out, imports do not overwrite\n"
    sampled = call(tmp_path, "sample.py", "run", "--steps", "2", "--samples", "2")
    assert sampled.returncode == 0 and sampled.stdout.strip()
