"""A family that the house does not know does all that the first one does; and the first one's names are its own."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imdm_dist.checkpoint.model import initialise, load_model
from imdm_dist.config import Config, MaskConfig, from_dict, load_config, shaping_settings, to_dict
from imdm_dist.diffusion.sampler import sample
from imdm_dist.interop import import_checkpoint
from imdm_dist.model import build_backbone, masked_rows
from imdm_dist.model.cuts import Cut, share
from imdm_dist.objectives.flops import MASKED
from imdm_dist.parallel.environment import LaunchedProcess
from imdm_dist.parallel.topology import check_topology, joined
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.parameters import count_parameters
from imdm_dist.planning.plan import build_plan
from imdm_dist.planning.plan_text import plan_text
from imdm_dist.training.loop import train
from tests import parity
from tests.model.second_family import Tiny, TinyConfig
from tests.ranks import Ranks

PACKAGE = Path(__file__).resolve().parents[2] / "imdm_dist"
FAMILY = "model.family=tests.model.second_family:Tiny"


def config_of(home: Path, *settings: str) -> Config:
    text = home / "text.txt"
    text.write_text("".join(f"line {i} has the words {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(300)))
    files = ["data.source=files", f"data.train={text}", f"data.valid={text}", f"data.cache={home / 'data'}"]
    small = ["data.bpe_size=300", "data.length=10", "train.global_batch=8", "train.log_every=1", "train.save_every=12"]
    noise = ["model.mask.kind=infinite", "model.mask.noise_dim=8"]
    steps = ["train.steps=24", "train.keep_last=2", "optimizer.warmup_steps=0", "optimizer.lr=1e-2"]
    return load_config(Config, None, [FAMILY, *files, *small, *noise, *steps, *settings])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    home = tmp_path_factory.mktemp("family")
    config = config_of(home)
    assert train(config, home / "whole")
    return home, config


def test_its_settings_are_those_of_its_class(tmp_path: Path) -> None:
    config = config_of(tmp_path, "model.hidden_dim=8", "model.longest=12")
    assert config.model == TinyConfig(hidden_dim=8, longest=12, mask=MaskConfig(kind="infinite", noise_dim=8))
    assert from_dict(Config, to_dict(config)) == config
    with pytest.raises(ValueError, match="model.n_heads is read by model.family=dit"):
        config_of(tmp_path, "model.n_heads=4")


def test_the_family_of_records_without_one_is_the_first() -> None:
    record = to_dict(Config())
    assert record["model"].pop("family") == "dit"
    assert from_dict(Config, record) == Config()
    names = {"size", "hidden_dim", "n_blocks", "n_heads", "cond_dim", "dropout", "attention_soft_cap", "mask"}
    assert set(shaping_settings(Config(), "model")["model"]) == names  # stages keep their names
    assert "family" in shaping_settings(Config(model=TinyConfig()), "model")["model"]


def test_it_trains_and_goes_on_bit_for_bit(trained: tuple[Path, Config]) -> None:
    home, config = trained
    losses = parity.curve(home / "whole").losses
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    (home / "broken").mkdir()
    shutil.copytree(home / "whole" / "step-00000012", home / "broken" / "step-00000012")
    assert train(config, home / "broken")
    assert parity.bits_equal(parity.curve(home / "broken"), parity.curve(home / "whole"))


def test_it_rolls_out_and_its_noise_counts(trained: tuple[Path, Config]) -> None:
    model = load_model(trained[0] / "whole").model
    assert isinstance(model, Tiny)
    start_BL = torch.full((3, 10), model.mask_id)
    tokens_BL = sample(model, start_BL, torch.arange(3), 4).tokens_BL
    assert not (tokens_BL == model.mask_id).any()
    assert torch.equal(sample(model, start_BL[1:], torch.arange(1, 3), 4).tokens_BL, tokens_BL[1:])
    with torch.no_grad():
        logits = [model.logits(start_BL[:1], torch.tensor([seed])) for seed in (0, 1)]
    assert not torch.equal(*logits)


def test_a_new_mask_starts_as_the_old_function(trained: tuple[Path, Config]) -> None:
    given = load_model(trained[0] / "whole")
    config = given.config.model
    assert isinstance(config, TinyConfig)
    config = replace(config, mask=MaskConfig(kind="single"))
    plain = build_backbone(config, given.model.vocab_size, given.model.mask_id).eval()
    noisy = build_backbone(given.config.model, given.model.vocab_size, given.model.mask_id).eval()
    initialise(noisy, replace(given, model=plain))
    x_BL = torch.full((2, 10), given.model.mask_id)
    assert torch.equal(noisy.logits(x_BL, torch.arange(2)), plain.logits(x_BL, torch.arange(2)))
    other = replace(config, attention_groups=4)
    message = "inputs.init has model.attention_groups=2, this model 4"
    with pytest.raises(ValueError, match=message):
        initialise(build_backbone(other, given.model.vocab_size, given.model.mask_id), given)


def test_its_parameters_are_counted() -> None:
    config = TinyConfig(hidden_dim=8, mask=MaskConfig(kind="infinite", noise_dim=4))
    model = build_backbone(config, 11, 10)
    for ranks in (1, 2):
        count = count_parameters(config, 11, ranks)
        sizes = [share(p.detach(), model.cut_of(name), 0, ranks).numel() for name, p in model.named_parameters()]
        assert (count.rank, count.rank_largest) == (sum(sizes), max(sizes))
        assert count.noise_mlp == sum(p.numel() for p in model.get_submodule("noise").parameters())


def test_it_is_planned(tmp_path: Path) -> None:
    config, vocab_size = config_of(tmp_path, "model.hidden_dim=64", "train.global_batch=64"), 5000
    plan = build_plan(config, Hardware(gpus=2), vocab_size)
    whole = build_backbone(config.model, vocab_size, vocab_size - 1)
    assert plan.fits and plan.parameters.total == sum(p.numel() for p in whole.parameters())
    rows = 64 * 10 * MASKED
    assert plan.flops.head == pytest.approx(rows * 3 * 2 * 64 * vocab_size, rel=0.01)
    assert isinstance(config.model, TinyConfig)
    deeper = build_plan(replace(config, model=replace(config.model, n_blocks=4)), Hardware(gpus=2), vocab_size)
    weights = sum(p.numel() for p in whole.blocks.parameters() if p.ndim == 2)
    assert deeper.flops.backbone - plan.flops.backbone == pytest.approx(64 * 10 * 6 * weights, rel=0.05)
    assert deeper.memory.peak > plan.memory.peak and plan_text(plan)


def split_logits(place: LaunchedProcess) -> tuple[float, set[str]]:
    """Largest difference of the logits of a divided model, and names of what is divided."""
    from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary
    from imdm_dist.parallel.tensor_parallel import split

    config, models = TinyConfig(mask=MaskConfig(kind="infinite", noise_dim=4)), []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_backbone(config, 11, 10).eval())
    for model in models:
        torch.nn.init.normal_(model.get_parameter("noise.2.weight"), generator=torch.Generator().manual_seed(1))
    x_BL = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(1))
    masked = masked_rows(x_BL == 10, torch.arange(3))
    with joined(place.world, config, place) as topology, torch.no_grad():
        whole, part = models[0], split(models[1], topology)
        ours, theirs = (model.head(model.hidden(x_BL, masked).flatten(0, 1)) for model in (part, whole))
        assert isinstance(part.vocabulary, SplitVocabulary)
        tokens = part.vocabulary.tokens
        theirs = share(theirs, Cut(1), place.rank, place.world)[:, :tokens]
    names = {name for name, p in part.named_parameters() if hasattr(p, "tensor_model_parallel")}
    return float((ours[:, :tokens] - theirs).abs().max()), names


def test_it_is_divided_among_ranks_as_it_says(ranks: Callable[[int], Ranks]) -> None:
    for worst, names in ranks(2).run(split_logits):
        assert worst < 1e-5
        assert {"words", "unembed.weight", "noise.0.weight", "noise.2.weight", "blocks.1.mix.weight"} <= names
        assert "places" not in names and "blocks.0.down.bias" not in names


def test_a_divided_run_is_the_same_run(trained: tuple[Path, Config], ranks: Callable[[int], Ranks]) -> None:
    home, config = trained
    config = replace(config, engine=replace(config.engine, tensor_parallel=2, zero_stage=1))
    assert ranks(2).run(parity.run, config, str(home / "divided")) == [True] * 2
    found = parity.difference(parity.curve(home / "divided"), parity.curve(home / "whole"))
    assert all(found[name] < 1e-5 for name in ("loss", "grad_norm")), found


def test_a_division_that_its_heads_forbid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"and model.attention_groups=2: set it to one of 1, 2$"):
        check_topology(4, 4, TinyConfig())


def test_what_imports_do_not_know_they_refuse(tmp_path: Path) -> None:
    torch.save({"words": torch.ones(3, 2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="imports do not know model.family=tests.model.second_family:Tiny"):
        import_checkpoint(tmp_path / "weights.pt", tmp_path / "run", [FAMILY])


NAMES = re.compile(
    r"\bDiT\b|DitConfig|model[./]dit|vocab_embed|output_layer|imdm_mlp|adaLN|sigma_map|attn_(qkv|out)|rotary_emb"
)


def test_the_first_family_is_named_in_its_folder_and_the_registry_alone() -> None:
    naming = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if NAMES.search(path.read_text()) and path.parent != PACKAGE / "model" / "dit"
    }
    assert naming == {"registry.py"}


MASK_KINDS = re.compile(r"""["'](single|finite|gaussian)["']|(Single|Infinite|Finite)Mask""")


def test_kinds_of_masks_and_laws_are_named_in_their_files_the_registry_and_defaults_alone() -> None:
    naming = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if MASK_KINDS.search(path.read_text()) and path.parent != PACKAGE / "model" / "masks"
    }
    assert naming == {"registry.py", "config/model.py"}
